"""The third stage: figures, settings and facts of the machine as report.json and report.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_builders.storage.atomic import write_atomic
from trainer_ext.environment import describe_environment
from trainer_ext.evaluation.benchmarks.base import Benchmark
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings
from trainer_ext.evaluation.tables import write_markdown


def describe_benchmark(benchmark: Benchmark, evaluator: str, items: int) -> dict[str, Any]:
    """Return what a reader must know of a benchmark."""
    return {
        "source": benchmark.source,
        "config": benchmark.config,
        "revision": benchmark.revision,
        "splits": list(benchmark.splits),
        "evaluator": evaluator,
        "items": items,
        "note": benchmark.note,
    }


def make_report(
    figures: Mapping[str, Any],
    models: Mapping[str, Any],
    benchmarks: Mapping[str, Any],
    settings: EvaluatorSettings,
    not_scored: Mapping[str, str],
    **facts: Any,
) -> dict[str, Any]:
    """Return the content of report.json.

    Args:
        figures: of `summarize`.
        models: label -> description of its source.
        benchmarks: name -> `describe_benchmark`.
        facts: further sections.
    """
    misreadings = settings.protocol == "voicebench" and settings.keep_misreadings
    return {
        "harness": describe_environment(),
        "settings": {"protocol": settings.protocol, "official_misreadings": misreadings, "seed": settings.seed},
        "models": dict(models),
        "benchmarks": dict(benchmarks),
        "not_scored": dict(not_scored),
        **figures,
        **facts,
    }


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json and report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "report.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomic(folder / "report.md", write_markdown(report).encode())
