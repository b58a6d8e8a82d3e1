"""Stages that are run once for their settings: each has a folder with a record, and depends on the one before."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data_builders.storage.atomic import atomic_folder, write_atomic
from data_builders.storage.call_cache import content_key
from data_builders.storage.json_files import read_object

RECORD = "stage.json"


class StageFolders(NamedTuple):
    """The folders of a stage: that of the stage before, its own, and what a killed run goes on from."""

    previous: Path
    target: Path
    unfinished: Path


class StageRunner:
    """Runs stages in their order.

    Args:
        folder: has a folder for each stage.
        overwrite: stages of other settings are run again, instead of refused.

    Attributes:
        latest: the folder of the last stage.
        figures: the figures of every stage, in a line.
    """

    def __init__(self, folder: Path, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.latest = folder
        self.figures: dict[str, str] = {}
        self._key = ""

    def run(self, name: str, settings: dict[str, Any], work: Callable[[StageFolders], dict[str, Any]]) -> None:
        """Run a stage, unless its folder was made with these settings, after the same stages.

        Args:
            work: writes the stage, and returns figures.

        Raises:
            ValueError: the folder was made with other settings.
        """
        self._key = content_key(name, settings, self._key)
        previous, self.latest = self.latest, self.folder / name
        record = self.latest / RECORD
        if record.is_file():
            made = read_object(record, "delete its folder, and it is made again", key=str)
            if made["key"] == self._key:
                self.figures[name] = describe(made)
                print(f"{name}: made before; {self.figures[name]}", flush=True)
                return
            if not self.overwrite:
                raise ValueError(
                    f"{self.latest} was made with other settings or from another stage: name another output_dir, or "
                    "add --overwrite_output_dir true"
                )
        started = time.monotonic()
        unfinished = self.folder / f"{name}.{self._key[:8]}"
        with atomic_folder(self.latest) as partial:
            figures = work(StageFolders(previous, partial, unfinished))
            made = {"key": self._key, "seconds": round(time.monotonic() - started), **figures}
            write_atomic(partial / RECORD, json.dumps(made).encode())
        shutil.rmtree(unfinished, ignore_errors=True)
        self.figures[name] = describe(made)
        print(f"{name}: {self.figures[name]}", flush=True)


def describe(figures: dict[str, Any]) -> str:
    """Return a stage's figures in one line."""
    return ", ".join(f"{name} {value}" for name, value in figures.items() if name != "key")
