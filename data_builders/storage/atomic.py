"""Files and folders that appear complete or not at all: written beside their place, synced, renamed."""

import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold a lock among processes and machines that share `file`'s folder; the kernel frees it when a process dies."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def temporary_path(path: Path) -> Path:
    """Return a unique path beside `path`, on the same file system."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{SUFFIX}")


def write_atomic(file: Path, content: bytes) -> None:
    """Write a file: temporary file, sync, rename."""
    temporary = temporary_path(file)
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(file)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` at the end of the block, or disappears on an error.

    A folder that is there already is replaced. Leftovers of killed processes are removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    folder = temporary_path(target)
    folder.mkdir()
    try:
        yield folder
        if target.exists():
            replaced = temporary_path(target)
            target.rename(replaced)
            folder.rename(target)
            shutil.rmtree(replaced)
        else:
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(target: Path) -> None:
    """Remove the temporary folders that killed processes left beside `target`."""
    prefix = f"{target.name}."
    for path in target.parent.iterdir():
        if path.is_dir() and path.name.startswith(prefix) and path.name.endswith(SUFFIX):
            shutil.rmtree(path, ignore_errors=True)


def check_writable(folder: Path, name: str) -> None:
    """Make a folder and raise ValueError if no file can be written into it.

    Args:
        name: what the message calls the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{name} cannot be written: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Write a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
