"""The call caches of a build: one SQLite file per stage and shard."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_builders.storage.call_cache import CallCache


class ShardCaches:
    """Opens caches below `<cache_dir>/calls`."""

    def __init__(self, cache_dir: Path) -> None:
        self.folder = cache_dir / "calls"

    @contextmanager
    def open(self, stage: str, shard: str) -> Iterator[CallCache]:
        """Open the cache of one stage and shard for the length of the block."""
        cache = CallCache(self.folder / stage / f"{shard}.sqlite")
        try:
            yield cache
        finally:
            cache.close()
