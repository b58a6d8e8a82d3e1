"""Tests of the memory plan against the measured memory of a run."""

import pytest
import torch

from trainer_ext.arguments import ModelArguments
from trainer_ext.loading.student import load_peft_config, load_student
from trainer_ext.memory.plan import Lengths, plan_run
from trainer_ext.memory.tracker import LiveTensorBytes
from trainer_ext.trainer import CrossModalDistillTrainer

LORA = {"use_peft": True, "lora_r": 16}
QLORA = {**LORA, "load_in_4bit": True, "use_bnb_nested_quant": True}


@pytest.mark.parametrize(
    ("student", "kind", "training"),
    [
        (LORA, "model", {}),
        (LORA, "stored", {}),
        (LORA, "self", {}),
        (LORA, "none", {"activation_checkpointing": True}),
        (LORA, "model", {"bf16": True}),
        ({**LORA, "lora_dropout": 0.05}, "stored", {"activation_checkpointing": True}),
        (QLORA, "model", {"activation_checkpointing": True}),
        (QLORA, "stored", {"optim": "adamw_bnb_8bit"}),
        ({}, "model", {}),
        ({}, "stored", {"activation_checkpointing": True}),
        ({}, "none", {"optim": "sgd"}),
        ({}, "none", {"optim": "sgd", "optim_args": "momentum=0.9"}),
        ({}, "none", {"optim": "ademamix"}),
        ({}, "none", {"optim": "lion_32bit"}),
        ({}, "none", {"optim": "rmsprop"}),
        ({}, "model", {"optim": "adamw_bnb_8bit"}),
        (QLORA, "self", {"activation_checkpointing": True}),
    ],
)
def test_the_plan_is_within_a_tenth_of_the_measured_memory(
    student, kind, training, lab_student, family, pairs, make_teacher, make_config
):
    """Prevents: a wrong plan, which costs a download of 20 GB or a failure hours into a run."""
    arguments = ModelArguments(model_name_or_path=lab_student, dtype="float32", **student)
    teacher = make_teacher(kind)
    config = make_config(teacher_kind=kind, per_device_train_batch_size=8, max_steps=2, **training)
    model = load_student(arguments, family)
    trainer = CrossModalDistillTrainer(
        model=model,
        args=config,
        family=family,
        teacher=teacher,
        train_dataset=pairs["train"].select(range(8)),
        peft_config=load_peft_config(arguments, family),
    )
    batch = trainer.data_collator([pairs["train"][i] for i in range(8)])
    lengths = Lengths.from_batch(batch)
    plan = plan_run(
        arguments,
        config,
        family,
        family.config,
        teacher.model.config if kind == "model" else None,
        lengths,
        on_cuda=False,
        context=0,
    )
    there = [*trainer.model.parameters(), *trainer.model.buffers()]
    if kind == "model":
        there += list(teacher.model.parameters())
    static = sum(bytes_kept(tensor) for tensor in there)
    live = LiveTensorBytes(there)
    with live:
        trainer.train()
    assert abs(plan.total / (static + live.peak) - 1) < 0.1


def bytes_kept(tensor: torch.Tensor) -> int:
    """Return the bytes of a weight, with the scales of a quantized one."""
    state = getattr(tensor, "quant_state", None)
    scales = 0
    if state is not None:
        scales = state.absmax.nbytes + state.code.nbytes
        if state.nested:
            scales += state.state2.absmax.nbytes + state.state2.code.nbytes
    return tensor.nbytes + scales
