"""A trainer that pushes to the Hub by this project's rules: an allow-list of files, one commit, and no lost results."""

import logging
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data_builders.hub.folders import keep_on_disk, make_upload, repository_name
from data_builders.hub.ids import public_name
from data_builders.hub.push import Upload, push
from data_builders.hub.repository import CARD, Repository, claim_repository
from data_builders.hub.requests import PushFailed, PushRefused
from data_builders.storage.atomic import temporary_path
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.checkpoints.callback import checkpoint_folder
from trainer_ext.hub.folders import ADAPTER, CHECKPOINT_FOLDER, MODEL, collect_checkpoint
from trainer_ext.hub.model_card import write_model_card
from trainer_ext.hub.run_facts import RunFacts
from trainer_ext.resumable_trainer import ResumableTrainer

logger = logging.getLogger(__name__)


def name_repository(args: CrossModalDistillConfig) -> Repository:
    """Return the repository that a run's arguments name; the name of its folder where none is named."""
    return Repository(
        args.hub_model_id or repository_name(Path(args.output_dir)),
        private=args.hub_private_repo,
        branch=args.hub_revision,
        overwrite=args.overwrite_repository,
    )


def claim_for_run(args: CrossModalDistillConfig, base_model: str, use_peft: bool) -> Repository:
    """Check that the result of a run can be pushed, and create its repository.

    Raises:
        PushRefused: it cannot be; says what to change.
        PushFailed: the Hub does not answer.
    """
    facts = RunFacts(args.hub_base_model_id or public_name(base_model), use_peft)
    return claim_repository(name_repository(args), facts.contents)


class PushingTrainer(ResumableTrainer):
    """Pushes at the end of a run, and at its saves where `hub_strategy` asks for it.

    Attributes:
        run_facts: facts for the model card.
    """

    run_facts: RunFacts
    hub_model_id: str | None
    repository: Repository

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Claim the repository, instead of creating it whatever it holds."""
        if self.is_world_process_zero():
            base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
            self.repository = claim_for_run(self.args, base.name_or_path, hasattr(self.model, "peft_config"))
            self.hub_model_id = self.repository.id
            self.push_in_progress = None

    def add_push_callback(self) -> None:
        """Install the pushes at saves, after the callback that completes checkpoints."""
        self._push: threading.Thread | None = None
        if self.args.push_to_hub and self.args.hub_strategy != "end":
            self.add_callback(PushCallback(self))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push nothing: the checkpoint is not complete yet. See `PushCallback`."""

    def push_checkpoint(self, folder: Path) -> None:
        """Push a complete checkpoint in the background, unless an earlier push is still under way.

        Its files are linked into a folder of their own, because the checkpoint may be deleted meanwhile.
        """
        if self._push is not None and self._push.is_alive():
            logger.warning(f"{folder.name} is not pushed: the push of an earlier one is still under way")
            return
        staged = temporary_path(Path(self.args.output_dir) / "push")
        try:
            upload = self._stage(folder, staged)
        except (PushRefused, OSError) as error:
            shutil.rmtree(staged, ignore_errors=True)
            logger.warning(f"{folder.name} is not pushed, training goes on: {error}")
            return
        message = f"Training in progress, step {self.state.global_step}"
        # A daemon: a run that is stopped by a signal does not wait for it, and a push that is cut changes nothing.
        self._push = threading.Thread(target=push_or_warn, args=(upload, self.repository, message, staged), daemon=True)
        self._push.start()

    def _stage(self, checkpoint: Path, staged: Path) -> Upload:
        """Link a checkpoint into a folder, write its card, and return what is to be pushed."""
        shutil.copytree(checkpoint, staged, copy_function=os.link)
        (staged / CARD).unlink(missing_ok=True)  # PEFT's, of which the checkpoint has a link
        facts = replace(self._public_facts(), step=self.state.global_step, steps=self.state.max_steps)
        write_model_card(staged, facts, self.args, self.family, self.repository.id.rpartition("/")[2])
        kind, whole = ADAPTER if facts.use_peft else MODEL, None
        if self.args.hub_strategy == "checkpoint":
            kind = replace(kind, patterns=[*kind.patterns, f"{CHECKPOINT_FOLDER}/*"])
            whole = collect_checkpoint(staged, facts.base_model)
        return make_upload(staged, kind, self.repository.id, added=whole)

    def push_to_hub(self, commit_message: str | None = "End of training", **kwargs: Any) -> str | None:
        """Save, write the card and push in one commit; returns the commit's URL on the main process.

        Raises:
            NotPushed: everything is on disk; names the command that pushes it later.
        """
        if self.hub_model_id is None:
            self.init_hf_repo()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card()
        self._finish_current_push()
        folder = Path(self.args.output_dir)
        with keep_on_disk(folder, self.repository):
            upload = make_upload(folder, ADAPTER if self.run_facts.use_peft else MODEL, self.repository.id)
            return push(upload, self.repository, commit_message or "End of training")

    def _finish_current_push(self) -> None:
        """Wait for the push of a checkpoint."""
        if self._push is not None:
            self._push.join()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of this run from `run_facts` instead of TRL's draft."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_model_card(folder, self._public_facts(), self.args, self.family)

    def _public_facts(self) -> RunFacts:
        """Return the facts with names that others know."""
        facts = self.run_facts
        return replace(
            facts,
            base_model=self.args.hub_base_model_id or public_name(facts.base_model),
            teacher_model=facts.teacher_model and public_name(facts.teacher_model),
            dataset_name=facts.dataset_name and public_name(facts.dataset_name),
            sound_dataset_name=facts.sound_dataset_name and public_name(facts.sound_dataset_name),
        )


class PushCallback(TrainerCallback):
    """Pushes every complete checkpoint."""

    def __init__(self, trainer: PushingTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.trainer.push_checkpoint(checkpoint_folder(args, state))


def push_or_warn(upload: Upload, repository: Repository, message: str, staged: Path) -> None:
    """Push, or log why it failed: training goes on."""
    try:
        push(upload, repository, message)
    except (PushFailed, PushRefused) as error:
        logger.warning(f"not pushed, training goes on: {error}")
    finally:
        shutil.rmtree(staged, ignore_errors=True)
