"""Files and folders that appear complete or not at all: written beside their place, synced, renamed.

What is reported as written survives a loss of power: contents and folder entries are synced before the rename, and the
rename before anything older is deleted.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_builders.storage.locks import entries_locked

SUFFIX = ".partial"  # begun; deleted by the next writer
FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
REPLACED = ".replaced"  # the former content of a folder, while the new one takes its name


def temporary_path(path: Path, suffix: str = SUFFIX) -> Path:
    """Return a unique path beside `path`, on the same file system."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{suffix}")


def write_atomic(file: Path, content: bytes) -> None:
    """Write a file: temporary file, sync, rename, sync of the folder; on an error nothing is left.

    What killed processes left of it is removed first, but not what other processes are writing.
    """
    temporary = file  # until there is one
    try:
        for path in list_beside(file, SUFFIX):
            remove_unlocked(path)
        with open_locked(file) as stream:
            temporary = Path(stream.name)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.rename(file)
    except BaseException as error:
        if temporary != file:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(file)
        raise
    sync(file.parent)


def open_locked(file: Path) -> IO[bytes]:
    """Return a new temporary file beside `file`, locked: `remove_unlocked` may come between making and locking it."""
    while True:
        temporary = temporary_path(file)
        stream = temporary.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if temporary.exists():
            return stream
        stream.close()


def remove_unlocked(file: Path) -> None:
    """Remove a temporary file that no process is writing."""
    with contextlib.suppress(OSError), file.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink()


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` at the end of the block, or disappears on an error.

    A folder that is there already is replaced; a link to one is followed. What killed processes left is removed first,
    but not what other processes are writing.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = temporary_path(target)
    with entries_locked(target.parent):  # others remove a folder that is not locked yet
        remove_leftovers(target)
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks of folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with naming_full_disk(target):
            yield folder
            sync_all(folder)
            with entries_locked(target.parent):
                replace_folder(folder, target)
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(folder: Path, target: Path) -> None:
    """Rename a folder to `target`; the former one is deleted once the rename is on the disk."""
    replaced = temporary_path(target, REPLACED)
    exists = target.exists()
    if exists:
        target.rename(replaced)
    try:
        folder.rename(target)
    except BaseException:
        if exists:
            replaced.rename(target)
        raise
    sync(target.parent)
    if exists:
        shutil.rmtree(replaced)


def remove_leftovers(target: Path) -> None:
    """Remove the temporary folders that killed processes left beside `target`; a former `target` gets its name back."""
    for path in filter(Path.is_dir, list_beside(target, REPLACED)):
        if target.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(target)
    for path in filter(Path.is_dir, list_beside(target, SUFFIX)):
        if not is_locked(path):
            shutil.rmtree(path, ignore_errors=True)


def list_beside(target: Path, suffix: str) -> list[Path]:
    """Return the files and folders that `temporary_path` named after `target`."""
    named = re.compile(rf"{re.escape(target.name)}\.[0-9a-f]{{8}}{re.escape(suffix)}")
    return [path for path in target.parent.iterdir() if named.fullmatch(path.name)]


def is_locked(folder: Path) -> bool:
    """Tell whether a process holds the lock of a folder that it writes."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def check_writable(folder: Path, name: str) -> None:
    """Make a folder and raise ValueError if no file can be written into it.

    Args:
        name: what the message calls the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise ValueError(f"{name} cannot be written: {error.strerror or error}{describe_space(folder)}") from error


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Translate what libraries raise for a full or read-only disk into an OSError that names `path`.

    safetensors raises an error of its own, torch a RuntimeError of its archive writer.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_OR_READ_ONLY:
            error.filename = error.filename or str(path)
        raise
    except Exception as error:
        link: BaseException | None = error
        while link is not None:
            code = next((code for code in FULL_OR_READ_ONLY if f"os error {code}" in str(link)), None)
            if isinstance(link, RuntimeError) and "inline_container" in str(link):
                code = errno.ENOSPC
            if code is not None:
                raise OSError(code, os.strerror(code), str(path)) from error
            link = link.__context__
        raise


def describe_space(path: Path) -> str:
    """Return the free space of the disk of a path as the end of a message; empty where it is unknown."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return f" ({shutil.disk_usage(place).free / 1e6:.0f} MB free)"
    return ""


def sync_all(folder: Path) -> None:
    """Write everything in a folder to the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


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
