"""Tests of recipes/cache_teacher.py as a command, by one or several processes."""

import sqlite3
from pathlib import Path

import pytest

from tests.support.lab import write_every
from tests.support.processes import run_recipe
from tests.support.run_script import run_script

STORED = ["--config", "recipes/configs/tiny_stored.yaml"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> list[str]:
    """Return every fifteenth question, built once for this file's runs."""
    folder = tmp_path_factory.mktemp("shared")
    questions = write_every(15, folder / "questions.jsonl")
    return [*STORED, "--questions", str(questions), "--cache_dir", str(folder / "data")]


def count_scored(cache: Path) -> int:
    if not cache.exists():
        return 0
    with sqlite3.connect(f"file:{cache}?mode=ro", uri=True) as database:
        try:
            return database.execute("SELECT count(*) FROM finished").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def test_two_processes_share_the_rows_and_a_run_trains_on_them(shared, tmp_path, monkeypatch, capsys):
    """Prevents: rows scored twice or by nobody, and a table that a run cannot read."""
    table = tmp_path / "table"
    few = ["--max_steps", "2", "--save_strategy", "no", "--output_dir", str(tmp_path / "run")]
    stored = [*shared, "--soft_targets_path", str(table)]
    made = run_recipe("cache_teacher.py", stored, processes=2)
    assert made.stdout.count("kB per 1,000 tokens") == 1
    caches = sorted((tmp_path / "table.cache").glob("*.sqlite"))
    assert [count_scored(cache) > 10 for cache in caches] == [True, True]
    _, error = run_script("s2t_t2t.py", [*stored, *few, "--temperature", "4.0"], monkeypatch, capsys)
    assert "another temperature: the run has 4.0" in error
    assert run_script("s2t_t2t.py", [*stored, *few], monkeypatch, capsys)[1] == ""
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()


def test_a_server_that_does_not_answer_is_one_line(shared, tmp_path, monkeypatch, capsys):
    """Prevents: a traceback of the HTTP client for a server that was not started."""
    monkeypatch.setattr("data_builders.clients.openai.RETRIES", 0)
    words = ["--soft_targets_path", str(tmp_path / "table"), "--teacher_base_url", "http://127.0.0.1:9/v1"]
    words += ["--temperature", "1.0", "--soft_targets_temperatures", "1.0"]
    _, error = run_script("cache_teacher.py", [*shared, *words], monkeypatch, capsys)
    assert "http://127.0.0.1:9/v1 cannot be reached" in error
