"""The checkpoint that a run resumes from."""

from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from trainer_ext.checkpoints.complete import find_corruption, find_last_complete_checkpoint
from trainer_ext.checkpoints.identity import describe_differences, read_identity

logger = logging.get_logger(__name__)


def resolve_resume(
    resume_from_checkpoint: str | bool | None, output_dir: str, identity: dict[str, Any], sharded: bool = False
) -> Path | None:
    """Return the checkpoint's folder; None starts from the beginning.

    Args:
        resume_from_checkpoint: True for the newest complete checkpoint of `output_dir`, or a folder.
        identity: the run's, which the checkpoint's must equal.
        sharded: the optimizer's states are in files of FSDP or DeepSpeed, which these check themselves.

    Raises:
        ValueError: the named folder is not complete, lacks the optimizer, or is of another run; names the keys.
    """
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint is True:
        checkpoint, skipped = find_last_complete_checkpoint(Path(output_dir))
        for line in skipped:
            logger.warning(line)
        if checkpoint is None:
            if read_identity(Path(output_dir)) is not None:
                check_same_run(Path(output_dir), identity)
            logger.warning(f"no complete checkpoint in {output_dir}: training starts from the beginning")
            return None
    else:
        checkpoint = Path(resume_from_checkpoint)
        if fault := find_corruption(checkpoint):
            raise ValueError(f"cannot resume from {checkpoint}: {fault}")
    check_same_run(checkpoint, identity)
    needed = (TRAINER_STATE_NAME,) if sharded else (TRAINER_STATE_NAME, "optimizer.pt", "scheduler.pt")
    if missing := [name for name in needed if not (checkpoint / name).is_file()]:
        raise ValueError(
            f"cannot resume from {checkpoint}: it has no {', '.join(missing)} (save_only_model leaves them out), so "
            "the run would not go on as it began"
        )
    return checkpoint


def check_same_run(checkpoint: Path, identity: dict[str, Any]) -> None:
    """Raise ValueError, naming the keys that differ, for a checkpoint of another run."""
    saved = read_identity(checkpoint)
    if saved is None:
        raise ValueError(f"cannot resume from {checkpoint}: it does not say which run it is of (run.json)")
    if differences := describe_differences(saved, identity):
        raise ValueError(
            f"{checkpoint} is of another run: {differences}. Give this run an output_dir of its own, or the values "
            "that the checkpoint was made with"
        )
