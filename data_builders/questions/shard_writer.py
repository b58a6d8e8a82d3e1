"""Selected questions into shards, each of the size that its speech will have."""

import collections
from pathlib import Path
from typing import Any

from datasets import Features, List, Value

from data_builders.questions.text_normalization import estimate_seconds
from data_builders.schema import FEATURES
from data_builders.storage.parquet import AtomicParquetWriter

SELECTED_FEATURES = Features(
    {
        **{name: FEATURES[name] for name in ("id", "source", "source_id", "system", "question", "spoken_text")},
        **{name: FEATURES[name] for name in ("gold_response", "reference")},
        "split": Value("string"),
        "channels": List(Value("string")),
    }
)
FLAC_BYTES_PER_SECOND = 19_700
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class ShardWriter:
    """Writes `<split>-<number>.parquet`; a shard is closed once its speech is estimated at `max_bytes`.

    Args:
        recordings: recordings of a training question, and of any other question.
    """

    def __init__(self, folder: Path, recordings: tuple[int, int], max_bytes: int) -> None:
        self._folder, self._recordings, self._max_bytes = folder, recordings, max_bytes
        self._open: dict[str, tuple[AtomicParquetWriter, str]] = {}
        self._bytes: collections.Counter[str] = collections.Counter()
        self._made: collections.Counter[str] = collections.Counter()
        self.shards: dict[str, int] = {}

    def write(self, row: dict[str, Any]) -> None:
        split = row["split"]
        if split not in self._open:
            name = f"{split}-{self._made[split]:05d}"
            writer = AtomicParquetWriter(self._folder / f"{name}.parquet", SELECTED_FEATURES)
            self._open[split] = writer, name
            self._made[split] += 1
            self.shards[name] = 0
        writer, name = self._open[split]
        writer.write(row)
        self.shards[name] += 1
        self._bytes[split] += self._estimate_bytes(row)
        if self._bytes[split] >= self._max_bytes:
            writer.close()
            del self._open[split], self._bytes[split]

    def _estimate_bytes(self, row: dict[str, Any]) -> int:
        recordings = self._recordings[row["split"] != "train"] if "s2t" in row["channels"] else 0
        text = sum(len(row[name] or "") for name in ("system", "question", "gold_response"))
        return text + int(recordings * estimate_seconds(row["spoken_text"]) * FLAC_BYTES_PER_SECOND)

    def close(self) -> None:
        for writer, _ in self._open.values():
            writer.close()


def parse_size(size: str) -> int:
    """Return the bytes of a size such as "500MB".

    Raises:
        ValueError: the text is no size.
    """
    number, unit = size[:-2], size[-2:].upper()
    if unit not in UNITS or not number.replace(".", "", 1).isdecimal() or float(number) <= 0:
        raise ValueError(f"max_shard_size is a size as 500MB or 2GB, got {size!r}")
    return int(float(number) * UNITS[unit])
