"""Run one stage over shards: what is missing is computed and cached, nothing else is touched."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tqdm import tqdm

from data_builders.outcomes import Rejected, TemporaryFailure
from data_builders.pipeline.caches import ShardCaches
from data_builders.pipeline.stages import CallResult, Stage


class Failure(NamedTuple):
    """A call that failed after all retries; its row stays undecided."""

    shard: str
    stage: str
    call: str  # the call in words
    error: str


@dataclass
class Outcomes:
    """The calls of a run that have no cached value, by key. They are never cached: an engine can be repaired."""

    rejected: dict[str, Rejected] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)


def run_stage(stage: Stage, shards: list[str], caches: ShardCaches, outcomes: Outcomes, quiet: bool) -> None:
    """Compute the missing calls of all shards; rejections and failures go to `outcomes`."""
    with tqdm(
        total=sum(len(stage.calls(shard)) for shard in shards),
        desc=stage.name,
        unit="call",
        disable=quiet,
        smoothing=0.1,
    ) as progress:
        try:
            for shard in shards:
                calls = stage.calls(shard)
                with caches.open(stage.name, shard) as cache:
                    missing = cache.adopt(calls)
                    advance(progress, len(calls) - len(missing))
                    if not missing:
                        continue
                    waiting = set(missing)
                    for results in stage.compute(shard, calls, missing):
                        cache.put_all({k: v for k, v in results.items() if isinstance(v, bytes)})
                        for key, result in results.items():
                            record(outcomes, key, result, shard, stage.name, str(calls[key]))
                        progress.update(len(waiting.intersection(results)))
        finally:
            stage.close()


def record(outcomes: Outcomes, key: str, result: CallResult, shard: str, stage: str, call: str) -> None:
    """Add a rejection or a failure."""
    if isinstance(result, Rejected):
        outcomes.rejected[key] = result
    elif isinstance(result, TemporaryFailure):
        outcomes.failed[key] = Failure(shard, stage, call, str(result))


def advance(progress: tqdm, count: int) -> None:
    """Move the bar over cached calls, without counting them towards its speed."""
    if not progress.disable:
        progress.initial += count
        progress.update(count)
