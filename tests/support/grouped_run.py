"""Train and evaluate in several processes: the rows that every process saw, and the metrics of the evaluation.

    torchrun --nproc_per_node 2 tests/support/grouped_run.py DATA OUTPUT STRATEGY STOP_AT

Writes OUTPUT/rows-RANK-STEP.json (epoch, ids) for every step and OUTPUT/eval.json. With STOP_AT, the process ends hard
after that step, as by kill -9.
"""

import json
import os
import sys
from pathlib import Path

import torch
from datasets import load_from_disk
from peft import LoraConfig
from transformers import TrainerCallback

from tests.support.lab import STUDENT, TEACHER
from tests.support.quiet_training import QUIET
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.process_exit import leave_process_group
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.trainer import CrossModalDistillTrainer


class StopAt(TrainerCallback):
    """Ends the process without any clean-up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            os._exit(9)


def main() -> None:
    data, output, strategy, stop_at = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    pairs = load_from_disk(data)
    family = load_student_family(STUDENT)
    settings = {**QUIET, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if strategy == "max_batch_tokens":
        settings |= {"max_batch_tokens": 350}
    else:
        settings |= {"train_sampling_strategy": strategy}
    trainer = CrossModalDistillTrainer(
        model=family.load_model(STUDENT, dtype=torch.float32),
        args=CrossModalDistillConfig(
            output_dir=str(output), num_train_epochs=2, learning_rate=1e-3,
            per_device_train_batch_size=4 // processes, per_device_eval_batch_size=4 // processes, **settings,
        ),
        family=family,
        teacher=LiveTeacher.from_pretrained(TEACHER, dtype="float32"),
        train_dataset=pairs["train"],
        eval_dataset=pairs["test"],
        peft_config=LoraConfig(target_modules=family.lora_target_modules, lora_dropout=0.5),
    )  # fmt: skip
    if stop_at < 0:
        with torch.no_grad():  # an untrained adapter would make all evaluations equal
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        metrics = trainer.evaluate()
    else:
        record_rows(trainer, output)
        trainer.add_callback(StopAt(stop_at))
        trainer.train(resume_from_checkpoint=True)
        metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        (output / "eval.json").write_text(json.dumps(metrics))


def record_rows(trainer: CrossModalDistillTrainer, output: Path) -> None:
    """Write the ids of every batch."""
    compute = trainer.compute_loss

    def record(model, inputs, *args, **kwargs):
        if model.training:
            file = output / f"rows-{trainer.args.process_index}-{trainer.state.global_step}.json"
            file.write_text(json.dumps([int(trainer.state.epoch or 0), inputs["example_ids"]]))
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = record


if __name__ == "__main__":
    main()
    leave_process_group()
