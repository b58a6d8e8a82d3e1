"""Take one optimizer step of the tiny lab, alone or in processes that torchrun starts; saves its gradient.

python one_step.py '{"dataset": folder, "output": file, "soft_targets": folder, "per_device_train_batch_size": 4}'
torchrun --standalone --nproc_per_node 2 one_step.py ...
"""

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import load_from_disk
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import TrainerCallback, set_seed

from tests.support.lab import STUDENT, TEACHER
from tests.support.quiet_training import QUIET
from trainer_ext import CrossModalDistillConfig, CrossModalDistillTrainer, load_student_family
from trainer_ext.arguments import ModelArguments
from trainer_ext.loading.teacher import load_teacher
from trainer_ext.process_exit import leave_process_group


class KeepGradient(TrainerCallback):
    """Save the gradients right before the optimizer uses them."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if PartialState().is_main_process:
            named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            save_file(
                {name.removeprefix("module."): grad.contiguous() for name, grad in named.items()},
                self.file,
            )


def take_step(dataset: str, output: str, soft_targets: str, **settings: Any) -> None:
    """Train one step on the saved rows and write the gradient to the file `output`."""
    family = load_student_family(STUDENT)
    training = CrossModalDistillConfig(
        output_dir=str(Path(output).parent / "run"),
        max_steps=1,
        max_grad_norm=0.0,
        **{"train_sampling_strategy": "sequential", **QUIET, **settings},
    )
    model = ModelArguments(
        model_name_or_path=STUDENT,
        teacher_model_name_or_path=TEACHER,
        dtype="float32",
    )
    set_seed(0)  # of the adapters, which are not zero
    adapters = LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False)
    CrossModalDistillTrainer(
        model=family.load_model(STUDENT, dtype="float32"),
        args=training,
        family=family,
        teacher=load_teacher(training, family, model.teacher, soft_targets),
        train_dataset=load_from_disk(dataset),
        peft_config=adapters if training.teacher_kind == "self" else None,
        callbacks=[KeepGradient(output)],
    ).train()


if __name__ == "__main__":
    take_step(**json.loads(sys.argv[1]))
    leave_process_group()
