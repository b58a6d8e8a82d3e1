"""The checkpoint that a run resumes from."""

from pathlib import Path

from transformers.utils import logging

from trainer_ext.checkpoints.complete import find_corruption, find_last_complete_checkpoint

logger = logging.get_logger(__name__)


def resolve_resume(resume_from_checkpoint: str | bool | None, output_dir: str) -> str | None:
    """Return the checkpoint's folder; None starts from the beginning.

    Args:
        resume_from_checkpoint: True for the newest complete checkpoint of `output_dir`, or a folder.

    Raises:
        ValueError: the named folder is not complete.
    """
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint is not True:
        if fault := find_corruption(Path(resume_from_checkpoint)):
            raise ValueError(f"cannot resume from {resume_from_checkpoint}: {fault}")
        return resume_from_checkpoint
    checkpoint, skipped = find_last_complete_checkpoint(Path(output_dir))
    for line in skipped:
        logger.warning(line)
    if checkpoint is None:
        logger.warning(f"no complete checkpoint in {output_dir}: training starts from the beginning")
        return None
    return str(checkpoint)
