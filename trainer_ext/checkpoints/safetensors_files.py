"""The tensors of a checkpoint on disk, by name, read and written one at a time.

A safetensors file is the length of its header in 8 bytes, the header (JSON: dtype, shape and offsets of every tensor)
and the tensors' bytes. The library writes a file only from all of its tensors at once, and copies them first.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from data_builders.pretrained import naming
from data_builders.storage.json_files import read_object

COPIED_BYTES = 2**24
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # names in headers


class SafetensorsFiles:
    """Index of the tensors in safetensors files; nothing is read before `read`.

    Args:
        files: files in their order, each with the names of its tensors in theirs.
    """

    def __init__(self, files: dict[Path, list[str]]) -> None:
        self.files = files
        self.file_of = {name: file for file, names in files.items() for name in names}

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "SafetensorsFiles":
        """Index a folder, or a Hub repository, whose files are downloaded unless they are cached.

        Raises:
            ValueError: there are no safetensors.
        """
        index = find_file(name_or_path, SAFE_WEIGHTS_INDEX_NAME, revision)
        if index is None:
            names = [SAFE_WEIGHTS_NAME]
        else:
            weight_map = read_object(index, "download it again", weight_map=dict)["weight_map"]
            names = sorted(set(map(str, weight_map.values())))
        files: dict[Path, list[str]] = {}
        for name in names:
            file = find_file(name_or_path, name, revision) if Path(name).name == name else None
            if file is None:
                raise ValueError(f"{name_or_path} has no {name}: its weights are missing, or not safetensors")
            with naming(str(file)), safe_open(file, "pt") as shard:
                files[file] = list(shard.keys())
        return cls(files)

    def read(self, name: str) -> Tensor:
        """Read one tensor to the CPU."""
        with safe_open(self.file_of[name], "pt") as shard:
            return shard.get_tensor(name)


def rewrite_file(
    source: Path,
    target: Path,
    renamed: dict[str, str],
    change: Callable[[str], Tensor | None],
    dtype: torch.dtype | None = None,
) -> int:
    """Write some of a file's tensors to another file; one of them is in memory at a time.

    Args:
        renamed: new names of the tensors to keep, by their old ones.
        change: returns the new value of a tensor by its old name, in the same shape; None keeps it.
        dtype: precision of the written floating-point tensors; None for their own.

    Returns:
        The bytes of the tensors written.
    """
    entries, start = read_header(source)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    written = 0
    for old, new in renamed.items():
        name, size = entries[old]["dtype"], entries[old]["data_offsets"][1] - entries[old]["data_offsets"][0]
        if dtype is not None and name in FLOATS:
            size = size // FLOATS[name].itemsize * dtype.itemsize
            name = next(other for other, kind in FLOATS.items() if kind == dtype)
        header[new] = {**entries[old], "dtype": name, "data_offsets": [written, written + size]}
        written += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with source.open("rb") as reading, target.open("wb") as writing:
        writing.write(len(text).to_bytes(8, "little") + text)
        for old in renamed:
            changed = change(old)
            begin, end = entries[old]["data_offsets"]
            own = FLOATS.get(entries[old]["dtype"])
            if changed is None and dtype is not None and own is not None:
                reading.seek(start + begin)
                changed = torch.frombuffer(bytearray(reading.read(end - begin)), dtype=own).to(dtype)
            if changed is None:
                reading.seek(start + begin)
                for left in range(end - begin, 0, -COPIED_BYTES):
                    writing.write(reading.read(min(left, COPIED_BYTES)))
            else:
                places = header[renamed[old]]["data_offsets"]
                assert changed.nbytes == places[1] - places[0]
                writing.write(changed.contiguous().view(torch.uint8).numpy().data)
    return written


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """Return the header's entries and the offset of the tensors' bytes."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return json.loads(stream.read(length)), 8 + length


def find_file(name_or_path: str, name: str, revision: str | None = None) -> Path | None:
    """Return a file of a folder or of a Hub repository, downloaded unless it is cached; None if there is none."""
    found = cached_file(name_or_path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
