"""Tests that every benchmark runs on its smallest inputs."""

import sys

import pytest

from tests.support.lab import ROOT
from tests.support.processes import run

BENCHMARKS = sorted((ROOT / "tests" / "benchmarks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_a_benchmark_runs(file, tmp_path):
    """Prevents: a benchmark that a rename has broken, found when its figures are needed."""
    folder = {"gpu": ["--folder", str(tmp_path)], "loss": ["--output", str(tmp_path / "loss.json")]}
    done = run([sys.executable, str(file), "--smoke", *folder.get(file.stem, [])], timeout=600)
    assert any(character.isdigit() for character in done.stdout)
