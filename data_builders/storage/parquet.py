"""Rows into a parquet file that appears complete or not at all."""

import os
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from data_builders.storage.atomic import hash_file, naming_full_disk, temporary_path

ROWS_PER_GROUP = 100


class AtomicParquetWriter:
    """Writes row by row; the file gets its name in `close`. As a context it leaves nothing after an error."""

    def __init__(self, path: Path, features: Features) -> None:
        self.path = path
        self._temporary = temporary_path(path)
        self._schema = features.arrow_schema
        self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd", write_page_index=True)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.unlink(missing_ok=True)

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        with naming_full_disk(self.path):
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> str:
        """Sync and rename the file; returns its SHA-256."""
        if self._rows:
            self._flush()
        with naming_full_disk(self.path):
            self._writer.close()
        with self._temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        digest = hash_file(self._temporary)
        self._temporary.rename(self.path)
        return digest
