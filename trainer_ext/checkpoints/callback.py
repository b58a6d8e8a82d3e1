"""Checkpoints that are complete and finite; older ones are deleted only after the new one is both."""

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from trainer_ext.checkpoints.complete import write_checksums


class CompleteCheckpointCallback(TrainerCallback):
    """Finishes every save: test of the weights, checksums, then rotation.

    `save_total_limit` is taken from the arguments, so that the base class, which rotates before the checksums are
    written, deletes nothing.
    """

    def __init__(self, args: TrainingArguments, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.save_total_limit, args.save_total_limit = args.save_total_limit, None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._remove_leftover(args, state, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._remove_leftover(args, state, control)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Write checksums and rotate.

        Raises:
            FloatingPointError: a weight is not finite although the loss was; the new checkpoint is deleted.
        """
        folder = checkpoint_folder(args, state)
        name = find_not_finite(model)
        # Under sharding a process sees its own part; if one of them stops, all do.
        found = torch.tensor(float(name is not None), device=self.accelerator.device)
        if self.accelerator.reduce(found, reduction="sum") > 0:
            if args.should_save:
                shutil.rmtree(folder)
            raise FloatingPointError(
                f"after step {state.global_step} {name or 'a weight of another process'} is not finite, so nothing is "
                "saved. Lower the learning rate or set max_grad_norm; the last complete checkpoint can be resumed from."
            )
        self.accelerator.wait_for_everyone()
        if args.should_save:
            write_checksums(folder)
            rotate_checkpoints(
                output_dir=args.output_dir,
                save_total_limit=self.save_total_limit,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=True,
            )

    def _remove_leftover(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Remove the folder of a killed save before a new save writes into it."""
        if control.should_save:
            if args.should_save:
                shutil.rmtree(checkpoint_folder(args, state), ignore_errors=True)
            self.accelerator.wait_for_everyone()


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the folder of the current step's checkpoint."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def find_not_finite(model: torch.nn.Module) -> str | None:
    """Return the first trained weight with a NaN or an infinity in this process's part of it; None if there is none."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            if not torch.isfinite(part).all():
                return name
    return None
