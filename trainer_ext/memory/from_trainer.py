"""The memory plan of a run that is about to start: its own arguments, and the longest rows of its own data."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from trainer_ext.arguments import ModelArguments
from trainer_ext.loading.zero3 import without_zero3_init
from trainer_ext.memory.plan import CUDA_CONTEXT, Lengths, MemoryPlan, plan_run
from trainer_ext.memory.sharding import Sharding, from_fsdp, from_zero_stage
from trainer_ext.trainer import CrossModalDistillTrainer


def plan_training(trainer: CrossModalDistillTrainer, model: ModelArguments, soft_targets_k: int = 64) -> MemoryPlan:
    """Plan the peak of the trainer's process, if the longest rows meet in one micro-batch."""
    teacher: Any = trainer.teacher
    on_cuda = trainer.args.device.type == "cuda"
    with without_zero3_init(trainer.args):  # empty models are built
        return plan_run(
            model,
            trainer.args,
            trainer.family,
            trainer.family.config,
            teacher.model.config if trainer.args.teacher_kind == "model" else None,
            measure_longest(trainer),
            read_accelerator(trainer.accelerator),
            soft_targets_k,
            on_cuda,
            CUDA_CONTEXT if on_cuda else 0,
        )


def measure_longest(trainer: CrossModalDistillTrainer) -> Lengths:
    """Measure a micro-batch of the longest rows; with `max_batch_tokens`, the longest micro-batch."""
    lengths = trainer.checked_rows.lengths
    if trainer.args.max_batch_tokens is not None:
        numbers = max(trainer.token_batches, key=lambda batch: sum(lengths[number] for number in batch))
    else:
        longest = sorted(range(len(lengths)), key=lengths.__getitem__)
        numbers = longest[-trainer.args.per_device_train_batch_size :]
    rows = [trainer.train_dataset[number] for number in numbers]
    return Lengths.from_batch(trainer.data_collator(rows))


def read_accelerator(accelerator: Accelerator) -> Sharding:
    """Return the sharding of this run's processes."""
    processes = accelerator.num_processes
    if accelerator.distributed_type == DistributedType.FSDP:
        return from_fsdp(processes)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin: Any = accelerator.state.deepspeed_plugin
        offloads = plugin.offload_optimizer_device not in (None, "none")
        return from_zero_stage(processes, plugin.zero_stage, offloads)
    return Sharding(processes)
