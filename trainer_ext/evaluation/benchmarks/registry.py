"""Benchmarks by name. A new one is a `Benchmark` in a file of this folder and its place in ALL."""

from trainer_ext.evaluation.benchmarks import audio_reasoning, voicebench
from trainer_ext.evaluation.benchmarks.base import Benchmark

ALL = (*voicebench.SUBSETS, *audio_reasoning.BENCHMARKS)
BENCHMARKS = {benchmark.name: benchmark for benchmark in ALL}
OVERALL = voicebench.OVERALL


def find_benchmarks(names: list[str]) -> list[Benchmark]:
    """Return benchmarks by name, in their order; "voicebench" stands for all of its subsets.

    Raises:
        ValueError: a name is unknown.
    """
    found: dict[str, Benchmark] = {}
    for name in names:
        inside = [known for known in BENCHMARKS if known == name or known.startswith(f"{name}/")]
        if not inside:
            raise ValueError(f"benchmarks: unknown {name!r}; known are voicebench, {', '.join(BENCHMARKS)}")
        found |= {known: BENCHMARKS[known] for known in inside}
    return list(found.values())
