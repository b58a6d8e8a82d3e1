"""Crash-safe SQLite cache of finished calls, keyed by a hash of all their inputs.

A changed setting misses and an unchanged one hits. SQLite commits every call by itself: after a crash each value is
there complete or not at all. No WAL is written, whose shared memory does not cross machines: the caches may lie on a
network file system.
"""

import errno
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

KEYS_PER_QUERY = 500
Value = TypeVar("Value")


def content_key(*parts: object) -> str:
    """Return a hash of JSON-serializable parts, equal in every process and on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class CallCache:
    """Bytes by key in one file; the first value of a key stays.

    Raises:
        ValueError: the file is damaged or locked; names it. Every method raises it too.
        OSError: the disk is full or read-only.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        with self._name_errors():
            self._database = sqlite3.connect(file, isolation_level=None, timeout=60)
            self._database.execute("PRAGMA journal_mode=TRUNCATE")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS finished (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID"
            )

    def get(self, key: str) -> bytes | None:
        with self._name_errors():
            found = self._database.execute(
                "SELECT value FROM finished WHERE key = ? AND typeof(value) = 'blob'", (key,)
            ).fetchone()
        return found and found[0]

    def read(self, key: str, unpack: Callable[[bytes], Value]) -> Value | None:
        """Return an unpacked value; None for a key without one.

        Raises:
            ValueError: it cannot be unpacked; names the file.
        """
        packed = self.get(key)
        try:
            return None if packed is None else unpack(packed)
        except Exception as error:  # whatever damaged bytes make of a parser
            raise self._damaged(error) from error

    def put(self, key: str, value: bytes) -> None:
        self.put_all({key: value})

    def put_all(self, values: Mapping[str, bytes]) -> None:
        """Store all values or, if the process dies, none."""
        with self._name_errors(), self._database:
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO finished VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value "
                "WHERE typeof(value) != 'blob'",
                values.items(),
            )

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the unfinished keys, each once, in their order."""
        keys = list(dict.fromkeys(keys))
        found: set[str] = set()
        for start in range(0, len(keys), KEYS_PER_QUERY):
            batch = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(batch))
            query = f"SELECT key FROM finished WHERE key IN ({marks}) AND typeof(value) = 'blob'"
            with self._name_errors():
                found.update(key for (key,) in self._database.execute(query, batch))
        return [key for key in keys if key not in found]

    def adopt(self, keys: Iterable[str]) -> list[str]:
        """Copy values from the folder's other caches, where rows were in other shards; returns the unfinished keys."""
        missing = self.missing(keys)
        for file in sorted(self.file.parent.glob("*.sqlite")) if missing else []:
            if file != self.file:
                self._adopt_from(file, missing)
                missing = self.missing(missing)
            if not missing:
                break
        return missing

    def _adopt_from(self, file: Path, missing: list[str]) -> None:
        """Copy the values of another cache; a damaged one is left out with a line."""
        try:
            other = CallCache(file)
            absent = set(other.missing(missing))
            present = [key for key in missing if key not in absent]
            for start in range(0, len(present), KEYS_PER_QUERY):
                values = ((key, other.get(key)) for key in present[start : start + KEYS_PER_QUERY])
                self.put_all({key: value for key, value in values if value is not None})
            other.close()
        except ValueError as error:
            print(f"left out: {error}", flush=True)

    @contextmanager
    def _name_errors(self) -> Iterator[None]:
        """Translate the database's errors, which name no file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            for words, code in (("full", errno.ENOSPC), ("readonly", errno.EROFS), ("disk I/O", errno.EIO)):
                if words in str(error):
                    raise OSError(code, str(error), str(self.file)) from error
            raise ValueError(f"the cache {self.file} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(f"the cache {self.file} is damaged ({error}): delete it, and its calls are made again")

    def close(self) -> None:
        self._database.close()
