"""A disk that can be filled: a tmpfs, for tests as root on Linux."""

import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

import pytest

SIZE_MB = 64


class SmallDisk:
    """A mounted tmpfs while the `with` block lasts; skips the test where it cannot be mounted.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        self.folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(self.folder)], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"mounting a disk needs root: {done.stderr.decode().strip()}")
        return self

    def fill(self, left_bytes: int) -> None:
        """Leave so many bytes free."""
        self.free()
        size = shutil.disk_usage(self.folder).free - left_bytes
        with self._ballast.open("wb") as file:
            for start in range(0, size, 1_000_000):
                file.write(bytes(min(1_000_000, size - start)))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def remount(self, option: str) -> None:
        """Make it read-only ("ro"), or writable again ("rw")."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.folder)], check=True)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def __exit__(self, *_: Any) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
