"""TRL's trainer with checkpoints that a run resumes from exactly, or not at all."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import TrainOutput
from trl import SFTTrainer

from data_builders.storage.atomic import naming_full_disk, sync, temporary_path
from trainer_ext.checkpoints.callback import CompleteCheckpointCallback, checkpoint_folder
from trainer_ext.checkpoints.complete import find_corruption
from trainer_ext.checkpoints.finite import check_finite_weights
from trainer_ext.checkpoints.resume import resolve_resume
from trainer_ext.checkpoints.stop_signals import StopSignals
from trainer_ext.loading.adapter import check_keys
from trainer_ext.students.base import StudentFamily


class ResumableTrainer(SFTTrainer):
    """Saves whole checkpoints of finite weights, stops at signals with one, and refuses those of other runs.

    Attributes:
        identity: everything that the weights depend on, by key; see checkpoints/identity.py.
        resumed_step: the step that training went on from; 0 from the beginning.
    """

    family: StudentFamily
    is_adapted: bool
    control: TrainerControl

    def add_checkpoint_callbacks(self, identity: dict[str, Any]) -> None:
        """Install the callbacks; their order matters, because a signal asks for a save."""
        self.identity = identity
        self.resumed_step = 0
        self.stop_signals = StopSignals(self.accelerator)
        self.add_callback(self.stop_signals)
        self.add_callback(CompleteCheckpointCallback(self.args, self.accelerator, identity))

    @property
    def is_sharded(self) -> bool:
        """Tell whether FSDP or DeepSpeed holds the weights."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train; `resume_from_checkpoint=True` takes the newest complete checkpoint, if there is one.

        A checkpoint of the last step is loaded, and nothing is trained: the base class would go one step further.

        Raises:
            ValueError: the checkpoint is not complete, or is of another run; names the keys that differ.
            TrainingStopped: SIGTERM or SIGINT arrived; the step has ended and a checkpoint is saved.
        """
        if len(self.get_train_dataloader()) == 0:
            raise ValueError(
                f"{len(self.train_dataset)} rows make no batch of {self.args.per_device_train_batch_size} per process: "
                "lower per_device_train_batch_size, or leave out dataloader_drop_last"
            )
        checkpoint = self.find_checkpoint(resume_from_checkpoint)
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            self.resumed_step = state.global_step
            if self.is_world_process_zero():
                print(f"resumed from {checkpoint}: step {state.global_step} of {state.max_steps}", flush=True)
            if state.global_step >= state.max_steps:
                return self._load_finished(checkpoint, state)
        try:
            with self.stop_signals.installed():
                output = super().train(resume_from_checkpoint=checkpoint and str(checkpoint), **kwargs)
        except pickle.UnpicklingError as error:  # all states are read with weights_only
            raise ValueError(
                f"cannot resume from {checkpoint}: one of its states is a pickle with code in it, which is never run"
            ) from error
        folder = checkpoint_folder(self.args, self.state)
        if self.stop_signals.received is not None and find_corruption(folder) is not None:
            # The signal came after the last step, and the run saves no checkpoint there.
            self._save_checkpoint(self.model, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.stop_signals.raise_if_stopped(self.state, str(folder))
        return output

    def find_checkpoint(self, resume_from_checkpoint: str | bool | None) -> Path | None:
        """Return the checkpoint that `train` would go on from; see `resolve_resume`."""
        return resolve_resume(resume_from_checkpoint, self.args.output_dir, self.identity, self.is_sharded)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save finite weights, and push nothing: a push that fails must not cost the files that are written after it.

        Raises:
            FloatingPointError: a weight is not finite; nothing is written.
        """
        check_finite_weights(self.model, self.state.global_step, self.accelerator)
        super().save_model(output_dir, _internal_call=True)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint; on an error nothing of it is left.

        Raises:
            OSError: the disk is full or read-only.
        """
        folder = checkpoint_folder(self.args, self.state)
        try:
            with naming_full_disk(folder):
                super()._save_checkpoint(model, trial)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def _load_finished(self, checkpoint: Path, state: TrainerState) -> TrainOutput:
        """Load the weights and the state of a run that has taken all of its steps."""
        if self.is_sharded:
            self._prepare_for_training(state.max_steps, self.get_train_dataloader(), str(checkpoint))
        else:
            self._load_from_checkpoint(str(checkpoint))
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return TrainOutput(state.global_step, 0.0, {})

    def _load_best_model(self) -> None:
        """Load the best checkpoint as a resumed run loads one: the base class compares weight names literally.

        Raises:
            ValueError: the best checkpoint is damaged.
        """
        best = self.state.best_model_checkpoint
        if not Path(best).is_dir():  # the run's folder has another name now
            best = self.state.best_model_checkpoint = str(Path(self.args.output_dir) / Path(best).name)
        if fault := find_corruption(Path(best)):
            raise ValueError(f"the best checkpoint {best} cannot be loaded: {fault}")
        if self.is_sharded:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(best)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Refuse adapters with other keys, and load a full model as its class does.

        `save_pretrained` writes the names of published checkpoints ("model.layers.0", in memory
        "model.language_model.layers.0"). The base class compares names literally, finds none, and continues from
        untrained weights with a warning.
        """
        if self.is_adapted:
            check_keys(self.model, resume_from_checkpoint)
        if self.is_adapted or self.is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            saved = self.family.load_model(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the feature extractor beside the tokenizer, a full model with the weights left on disk, and no pickle.

        Files are written beside the folder and moved into it, so that a killed save leaves none half-written.
        training_args.bin, a pickle that would be pushed to the Hub, is removed.
        """
        if not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        if not self.is_adapted:
            trained = self.model.state_dict() if state_dict is None else state_dict
            state_dict = {**trained, **self.family.load_unloaded_weights(self.model)}
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(folder / "save")
        try:
            with naming_full_disk(folder):
                super()._save(str(temporary), state_dict)
                self.family.save_pretrained(str(temporary))
            (temporary / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            move_files(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def move_files(source: Path, target: Path) -> None:
    """Sync the files of a folder to disk and move them into another, each by one rename."""
    mode = 0o666 & ~read_umask()
    for file in sorted(source.rglob("*")):
        if file.is_file():
            sync(file)
            file.chmod(mode)  # safetensors writes weights that their owner alone can read
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
            sync(place.parent)


def read_umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def seconds_per_step(trainer: ResumableTrainer) -> float:
    """Return the seconds per step of this process's training, saves and logs included; 0 where it took none."""
    runtimes = [entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry]
    steps = trainer.state.global_step - trainer.resumed_step
    return runtimes[-1] / steps if runtimes and steps else 0.0
