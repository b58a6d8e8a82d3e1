"""The plan of a run that is about to start: its own arguments, and the longest rows of its own data."""

from typing import Any

from accelerate.utils import DistributedType

from trainer_ext.arguments import ModelArguments
from trainer_ext.loading.zero3 import without_zero3_init
from trainer_ext.memory.plan import CUDA_CONTEXT, Lengths, Plan, plan_run
from trainer_ext.memory.sharding import Sharding, from_fsdp, from_zero_stage
from trainer_ext.trainer import CrossModalDistillTrainer


def plan_training(
    trainer: CrossModalDistillTrainer, model: ModelArguments, soft_targets_k: int = 64
) -> Plan:
    """What the trainer's process will need at the most, if the longest rows meet in one micro-batch."""
    teacher: Any = trainer.teacher
    on_cuda = trainer.args.device.type == "cuda"
    with without_zero3_init(trainer.args):  # skeletons of the models are built
        return plan_run(
            model,
            trainer.args,
            trainer.family,
            trainer.family.config,
            teacher.model.config if trainer.args.teacher_kind == "model" else None,
            measure_longest(trainer),
            read_sharding_of(trainer.accelerator),
            soft_targets_k,
            on_cuda,
            CUDA_CONTEXT if on_cuda else 0,
        )


def measure_longest(trainer: CrossModalDistillTrainer) -> Lengths:
    """Of the longest rows, as many as a micro-batch has."""
    lengths = trainer.train_lengths
    longest = sorted(range(len(lengths)), key=lengths.__getitem__)
    numbers = longest[-trainer.args.per_device_train_batch_size :]
    rows = [trainer.train_dataset[number] for number in numbers]
    return Lengths.from_batch(trainer.data_collator(rows))


def read_sharding_of(accelerator: Any) -> Sharding:
    """How this run's processes share what."""
    processes = accelerator.num_processes
    if accelerator.distributed_type == DistributedType.FSDP:
        return from_fsdp(processes)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        return from_zero_stage(
            processes, plugin.zero_stage, plugin.offload_optimizer_device not in (None, "none")
        )
    return Sharding(processes)
