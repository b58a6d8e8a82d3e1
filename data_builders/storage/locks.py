"""Locks among processes and machines that share a folder. The kernel frees them when a process dies."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_held: list[IO[str]] = []


@contextmanager
def locked(file: Path, waiting_for: str = "", shared: bool = False) -> Iterator[None]:
    """Hold a lock; where another process holds it, wait.

    Args:
        waiting_for: work of the other process, for a line that says so; empty for none.
        shared: with other processes that hold it shared.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as lock:
        if not try_lock(lock, shared):
            if waiting_for:
                print(f"waiting for {read_holder(lock)}, which {waiting_for}", flush=True)
            fcntl.lockf(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if not shared:
            write_holder(lock)
        yield


def hold_until_end(file: Path, held_message: str) -> None:
    """Hold a lock until `release_held`, or until this process ends.

    Args:
        held_message: the error where another process holds it, which is named after it.

    Raises:
        ValueError: another process holds the lock.
    """
    lock = file.open("a+", encoding="utf-8")
    if not try_lock(lock):
        holder = read_holder(lock)
        lock.close()
        raise ValueError(f"{held_message} {holder}")
    write_holder(lock)
    _held.append(lock)


def release_held() -> None:
    """Release the locks of `hold_until_end`."""
    while _held:
        _held.pop().close()


def try_lock(lock: IO[str], shared: bool = False) -> bool:
    """Lock an open file unless another process holds it; tells whether it is locked.

    These locks belong to a process, so that workers that it forks do not keep them after its death.
    """
    try:
        fcntl.lockf(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def write_holder(lock: IO[str]) -> None:
    """Write this process's number and machine into a locked file, for those who wait."""
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()


def read_holder(lock: IO[str]) -> str:
    """Return the process and the machine that hold a lock."""
    lock.seek(0)
    return lock.read(200).strip() or "another process"


@contextmanager
def entries_locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Lock a folder's entries, without a file: `shared` to read what is in it, otherwise to rename in it.

    Where a folder cannot be locked (some network file systems), the block runs without.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
