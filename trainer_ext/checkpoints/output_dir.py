"""The folder of a run: empty, its own, or refused."""

import re
import shutil
from pathlib import Path

from data_builders.storage.atomic import SUFFIX, check_writable
from data_builders.storage.locks import hold_until_end
from data_builders.storage.run_record import ENVIRONMENT, SETTINGS
from trainer_ext.checkpoints.identity import IDENTITY, read_identity

LOCK = ".lock"
# Files of a finished run, which would be taken for those of the new one.
RESULTS = (
    "report.json", "report.md", SETTINGS, ENVIRONMENT, "trainer_state.json", "adapter_model.safetensors",
    "adapter_config.json", "model.safetensors", "model.safetensors.index.json",
)  # fmt: skip


def claim_output_dir(output_dir: str, resumes: bool, overwrite: bool) -> None:
    """Check, in one process of a run, that nobody else's files are in its folder, before anything expensive starts.

    Args:
        resumes: the run goes on from a checkpoint in it, if there is one.
        overwrite: an earlier run in it will be replaced, by `replace_earlier_run`.

    Raises:
        ValueError: both are asked for; the folder cannot be written, is in use by another process, or holds files of
            another run or of somebody else.
    """
    folder = Path(output_dir)
    if resumes and overwrite:
        raise ValueError(
            "resume_from_checkpoint and overwrite_output_dir exclude each other: one goes on with the run in "
            "output_dir, the other deletes it"
        )
    claim_folder(folder)
    if all(path.name == LOCK for path in folder.iterdir()):
        return
    is_run = read_identity(folder) is not None
    if is_run:
        delete_leftovers(folder)
    if overwrite:
        return
    if resumes and not is_run:
        raise ValueError(
            f"{folder} is not empty and holds no run of this trainer (no {IDENTITY}): there is nothing to resume, and "
            "its files would be replaced: name another output_dir, or add --overwrite_output_dir true"
        )
    if not resumes:
        ways = "--resume_from_checkpoint true to go on with it, " if is_run else ""
        raise ValueError(
            f"{folder} holds {'an earlier run' if is_run else 'other files'}: name another output_dir, or add {ways}"
            "--overwrite_output_dir true to replace it"
        )


def claim_folder(folder: Path) -> None:
    """Make a folder and lock it until this process ends.

    Raises:
        ValueError: it cannot be written, or is in use by another process.
    """
    check_writable(folder, f"output_dir {folder}")
    hold_until_end(folder / LOCK, f"{folder} is in use: name another output_dir, or wait for")


def delete_leftovers(folder: Path) -> None:
    """Delete what a killed process had begun to write."""
    for path in folder.glob(f"*{SUFFIX}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def replace_earlier_run(folder: Path) -> None:
    """Delete the checkpoints of an earlier run, once the new one is loaded; other files stay or are replaced.

    A folder of that name without a run's identity is somebody else's.
    """
    for checkpoint in folder.iterdir():
        if re.fullmatch(r"checkpoint-\d+", checkpoint.name) and (checkpoint / IDENTITY).is_file():
            shutil.rmtree(checkpoint)
    for name in (IDENTITY, *RESULTS):
        (folder / name).unlink(missing_ok=True)
