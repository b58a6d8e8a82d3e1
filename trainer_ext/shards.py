"""The tensors of a checkpoint on disk, found by name and read one at a time."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file


class Shards:
    """Which safetensors file holds which tensor; nothing is read before it is asked for.

    Args:
        files: shard files in their order, each with the names of its tensors in theirs.
    """

    def __init__(self, files: dict[Path, list[str]]) -> None:
        self.files = files
        self.file_of = {name: file for file, names in files.items() for name in names}

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "Shards":
        """Of a folder, or of a Hub repository, whose shards are fetched unless they are in the cache.

        Raises:
            ValueError: there are no safetensors.
        """
        index = _find(name_or_path, SAFE_WEIGHTS_INDEX_NAME, revision)
        if index is None:
            names = [SAFE_WEIGHTS_NAME]
        else:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        files: dict[Path, list[str]] = {}
        for name in names:
            file = _find(name_or_path, name, revision)
            if file is None:
                raise ValueError(
                    f"{name_or_path} has no {name}: its weights are not there, or not safetensors"
                )
            with safe_open(file, "pt") as shard:
                files[file] = list(shard.keys())
        return cls(files)

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        with safe_open(self.file_of[name], "pt") as shard:
            return shard.get_tensor(name)


def _find(name_or_path: str, file: str, revision: str | None) -> Path | None:
    found = cached_file(
        name_or_path, file, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return None if found is None else Path(found)
