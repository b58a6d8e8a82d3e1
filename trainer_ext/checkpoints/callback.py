"""Checkpoints that are complete; older ones are deleted only after the new one is."""

import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, rotate_checkpoints

from trainer_ext.checkpoints.complete import write_checksums
from trainer_ext.checkpoints.identity import write_identity
from trainer_ext.checkpoints.stop_signals import ends_epoch


class CompleteCheckpointCallback(TrainerCallback):
    """Finishes every save: identity of the run, checksums, then rotation.

    `save_total_limit` is taken from the arguments, so that the base class, which rotates before the checksums are
    written, deletes nothing.
    """

    def __init__(self, args: TrainingArguments, accelerator: Accelerator, identity: dict[str, Any]) -> None:
        self.accelerator, self.identity = accelerator, identity
        self._deferred = False
        self.save_total_limit, args.save_total_limit = args.save_total_limit, None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the run's folder as its own."""
        if args.should_save:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            write_identity(Path(args.output_dir), self.identity)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_save and args.eval_strategy == IntervalStrategy.EPOCH and ends_epoch(state):
            # A run resumed from here would begin the next epoch without the evaluation at the end of this one.
            control.should_save, self._deferred = False, True
        self._remove_leftover(args, state, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_save, self._deferred = control.should_save or self._deferred, False
        self._remove_leftover(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write identity and checksums, and rotate."""
        self.accelerator.wait_for_everyone()
        if args.should_save:
            folder = checkpoint_folder(args, state)
            write_identity(folder, self.identity)
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
