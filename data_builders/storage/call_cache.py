"""Crash-safe SQLite cache of finished calls, keyed by a hash of all their inputs.

A changed setting misses and an unchanged one hits. SQLite commits every call by itself: after a crash each value is
there complete or not at all. No WAL is written, whose shared memory does not cross machines: the caches may lie on a
network file system.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

KEYS_PER_QUERY = 500


def content_key(*parts: object) -> str:
    """Return a hash of JSON-serializable parts, equal in every process and on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class CallCache:
    """Bytes by key in one file; the first value of a key stays."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self._database = sqlite3.connect(file, isolation_level=None, timeout=60)
        self._database.execute("PRAGMA journal_mode=TRUNCATE")
        self._database.execute("CREATE TABLE IF NOT EXISTS finished (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def get(self, key: str) -> bytes | None:
        found = self._database.execute("SELECT value FROM finished WHERE key = ?", (key,)).fetchone()
        return found and found[0]

    def put(self, key: str, value: bytes) -> None:
        self.put_all({key: value})

    def put_all(self, values: Mapping[str, bytes]) -> None:
        """Store all values or, if the process dies, none."""
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR IGNORE INTO finished VALUES (?, ?)", values.items())

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the unfinished keys, each once, in their order."""
        keys = list(dict.fromkeys(keys))
        found: set[str] = set()
        for start in range(0, len(keys), KEYS_PER_QUERY):
            batch = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(batch))
            found.update(
                key for (key,) in self._database.execute(f"SELECT key FROM finished WHERE key IN ({marks})", batch)
            )
        return [key for key in keys if key not in found]

    def adopt(self, keys: Iterable[str]) -> list[str]:
        """Copy values from the folder's other caches, where rows were in other shards; returns the unfinished keys."""
        missing = self.missing(keys)
        for file in sorted(self.file.parent.glob("*.sqlite")) if missing else []:
            if file == self.file:
                continue
            other = CallCache(file)
            for key in set(missing) - set(other.missing(missing)):
                value = other.get(key)
                assert value is not None
                self.put(key, value)
            other.close()
            missing = self.missing(missing)
            if not missing:
                break
        return missing

    def close(self) -> None:
        self._database.close()
