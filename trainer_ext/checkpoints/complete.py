"""Checkpoints that are whole or ignored: a manifest of checksums, written last.

The Trainer writes a checkpoint file by file; killed in between, it would later resume from what is there and silently
start the rest afresh. A folder counts only when its manifest is there and every file matches it.
"""

import hashlib
import json
import os
import re
from pathlib import Path

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Checksums of every file in `folder`, written aside and renamed, as the very last step of a save."""
    checksums = {
        str(file.relative_to(folder)): hash_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    aside = folder / f"{MANIFEST}.partial"
    with aside.open("w", encoding="utf-8") as stream:
        json.dump(checksums, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(folder / MANIFEST)


def find_corruption(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None when it is whole."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return "its save did not finish (there is no manifest)"
    try:
        checksums = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return "its manifest is damaged"
    for name, checksum in checksums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if hash_file(folder / name) != checksum:
            return f"{name} is damaged (its checksum differs)"
    return None


def find_last_complete_checkpoint(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a line for every newer one that is not."""
    found = []
    for folder in output_dir.glob("checkpoint-*"):
        if step := re.fullmatch(r"checkpoint-(\d+)", folder.name):
            found.append((int(step[1]), folder))
    skipped: list[str] = []
    for _, folder in sorted(found, reverse=True):
        damage = find_corruption(folder)
        if damage is None:
            return folder, skipped
        skipped.append(f"{folder.name} is ignored: {damage}")
    return None, skipped


def hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
