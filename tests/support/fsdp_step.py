"""Run one backward of the tiny lab under FSDP2 in the processes that torchrun starts; saves the full gradient.

torchrun --standalone --nproc_per_node 2 fsdp_step.py \
    '{"dataset": folder, "output": file, "shard_head": true, "bf16": false}'
"""

import json
import sys

import torch
import torch.distributed as dist
from datasets import load_from_disk
from safetensors.torch import save_file
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from tests.support.lab import STUDENT, TEACHER
from trainer_ext import PairCollator, load_student_family
from trainer_ext.loss.alignment import IGNORE_INDEX
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import TokenGroup
from trainer_ext.pair_batch import PairBatch
from trainer_ext.process_exit import end_process
from trainer_ext.students.distill_forward import DistillRequest, install_distill_forward
from trainer_ext.teachers.live import LiveTeacher


def main() -> None:
    settings = json.loads(sys.argv[1])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    family = load_student_family(STUDENT)
    model = family.load_model(STUDENT, dtype="float32")
    install_distill_forward(model, family.packed_inputs)
    if world > 1:
        half = torch.bfloat16 if settings["bf16"] else None
        policy = MixedPrecisionPolicy(param_dtype=half, output_dtype=half)
        if settings["shard_head"]:
            fully_shard(model.lm_head, mp_policy=policy)  # a DTensor inside the forward
        for layer in (*model.model.language_model.layers, *model.model.audio_tower.layers):
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
    teacher = LiveTeacher.from_pretrained(TEACHER, dtype="float32")
    rows = list(load_from_disk(settings["dataset"]))
    batch = PairCollator(family, teacher.encoder)(rows[rank::world])
    tokens = torch.tensor(int((batch["labels"] != IGNORE_INDEX).sum()))
    dist.all_reduce(tokens)

    split = PairBatch.split(batch)
    targets = teacher.targets(split.teacher_inputs, split.teacher_index())
    request = DistillRequest(split.labels, [TokenGroup(None, targets)], Objective())
    output = model(**split.model_inputs, distill=request)
    (output.total / tokens * world).backward()
    parts = request.parts
    assert {part.dtype for part in (parts.total, parts.ce, parts.kl)} == {torch.float32}
    assert targets.hidden_states.dtype == torch.float32
    loss = parts.total.detach().clone()
    dist.all_reduce(loss)
    gradients = {"loss": loss / tokens} | {
        name: p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    if rank == 0:
        save_file({name: grad.contiguous() for name, grad in gradients.items()}, settings["output"])


if __name__ == "__main__":
    main()
    # DTensor's caches keep the process group, so its threads outlive `destroy_process_group`. One that still frees a
    # tensor while the interpreter ends aborts the process: https://github.com/pytorch/pytorch/pull/179291
    end_process(0)
