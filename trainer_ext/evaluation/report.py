"""The third stage: figures, settings and facts of the machine as report.json and report.md."""

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from data_builders.storage.atomic import write_atomic
from trainer_ext.evaluation.benchmarks.base import Benchmark
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings
from trainer_ext.evaluation.tables import write_markdown

PACKAGE = "crossmodal-kd"
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "evaluate", "scipy")
ROOT = Path(__file__).parents[2]


def describe_harness() -> dict[str, Any]:
    """Return version, commit, libraries and hardware."""
    return {
        "version": find_version(PACKAGE),
        "commit": find_commit(),
        "libraries": {name: find_version(name) for name in LIBRARIES},
        "hardware": find_hardware(),
        "python": platform.python_version(),
    }


def find_version(name: str) -> str | None:
    """Return the version of an installed package; None for one that is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def find_commit() -> str | None:
    """Return the commit of a source checkout; None for an installed package."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None


def find_hardware() -> str:
    """Return the accelerator's name, or the processor's with its threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


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
        "harness": describe_harness(),
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
