"""Tests of recipes/s2t_t2t.py as a command, from arguments to files."""

import json

import pytest

from tests.support.lab import TEACHER, write_every
from tests.support.processes import run_recipe
from tests.support.run_script import run_script


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    """Prevents: data built twice, scores of one process alone, or two reports, under DDP over gloo."""
    questions = str(write_every(20, tmp_path / "questions.jsonl"))
    words = ["--questions", questions, "--teacher_model_name_or_path", TEACHER, "--cache_dir", str(tmp_path / "data")]
    words += ["--max_steps", "3", "--logging_steps", "1", "--save_steps", "2", "--output_dir", str(tmp_path / "run")]
    done = run_recipe("s2t_t2t.py", words, processes=2)
    assert done.stdout.count("exact_answer on held-out questions") == 1
    assert json.loads((tmp_path / "run" / "report.json").read_text())["steps"] == 3


def test_a_typing_error_ends_the_run_with_one_line(monkeypatch, capsys):
    """Prevents: an error that is found after data and models were loaded."""
    _, error = run_script("s2t_t2t.py", ["--learning_rat", "1e-4"], monkeypatch, capsys)
    assert "--learning_rat" in error
