"""Files that appear whole or not at all: written beside their place, synced, renamed."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

ROWS_PER_GROUP = 100


def temporary_path(file: Path) -> Path:
    """A name beside the place that no other process has, on this machine or another."""
    return file.with_name(f"{file.name}.{secrets.token_hex(4)}.partial")


class AtomicParquetWriter:
    """Rows into a parquet file that appears whole or not at all."""

    def __init__(self, path: Path, features: Features) -> None:
        self.path = path
        self._aside = temporary_path(path)
        self._schema = features.arrow_schema
        self._writer = pq.ParquetWriter(
            self._aside, self._schema, compression="zstd", write_page_index=True
        )
        self._rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> str:
        """Put it in its place; returns its SHA-256."""
        if self._rows:
            self._flush()
        self._writer.close()
        with self._aside.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        self._aside.rename(self.path)
        return digest


def write_atomic(file: Path, content: bytes) -> None:
    """Write beside the place, sync, rename."""
    aside = temporary_path(file)
    with aside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(file)
