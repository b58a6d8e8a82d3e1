"""Complete checkpoints: a file of checksums, written last.

The Trainer writes a checkpoint file by file. Killed in between, it would later resume from what is there and silently
start the rest afresh. A folder counts only if its checksums are there and every file matches.
"""

import json
import re
from pathlib import Path

from data_builders.storage.atomic import hash_file, sync, write_atomic

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write the checksums of every file in `folder`, as the last step of a save."""
    checksums = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != CHECKSUMS:
            sync(file)
            checksums[str(file.relative_to(folder))] = hash_file(file)
    write_atomic(folder / CHECKSUMS, json.dumps(checksums, indent=1).encode())
    sync(folder)
    sync(folder.parent)


def find_corruption(folder: Path) -> str | None:
    """Return the first fault of a checkpoint in words; None if it is complete."""
    file = folder / CHECKSUMS
    if not folder.is_dir():
        return "there is no such folder"
    if not file.is_file():
        return f"its save did not finish (there is no {CHECKSUMS})"
    try:
        checksums = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return f"its {CHECKSUMS} is damaged"
    if not isinstance(checksums, dict) or not checksums:
        return f"its {CHECKSUMS} is damaged"
    for name, checksum in checksums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if hash_file(folder / name) != checksum:
            return f"{name} is damaged (its checksum differs)"
    return None


def find_last_complete_checkpoint(output_dir: Path) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint, and a line for every newer one that is not complete."""
    found = []
    for folder in output_dir.glob("checkpoint-*"):
        if step := re.fullmatch(r"checkpoint-(\d+)", folder.name):
            found.append((int(step[1]), folder))
    skipped: list[str] = []
    for _, folder in sorted(found, reverse=True):
        fault = find_corruption(folder)
        if fault is None:
            return folder, skipped
        skipped.append(f"{folder.name} is ignored: {fault}")
    return None, skipped
