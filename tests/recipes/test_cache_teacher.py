"""Soft targets as people make and use them: processes of their own, killed and resumed, one or several."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import load_from_disk

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
STORED = ["--config", "recipes/configs/tiny_stored.yaml"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> list[str]:
    """Every tenth question, built once for this file's runs."""
    folder = tmp_path_factory.mktemp("shared")
    lines = (ROOT / "recipes" / "tiny_lab" / "questions.jsonl").read_text().splitlines()[::10]
    (folder / "questions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return ["--questions", str(folder / "questions.jsonl"), "--cache_dir", str(folder / "data")]


def run(launcher: list[str], script: str, arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*launcher, f"recipes/{script}", *STORED, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def count_scored(journal: Path) -> int:
    if not journal.exists():
        return 0
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as database:
        try:
            return database.execute("SELECT count(*) FROM finished").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def read_scored(output: str) -> int:
    """From "(632 scored now)"."""
    return int(output.split(" scored now")[0].rpartition("(")[2])


def test_a_killed_run_goes_on_and_ends_in_the_same_table(shared, tmp_path):
    """A teacher of 15 GB reads for hours; the machine is taken away at a moment of its own."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run([sys.executable], "cache_teacher.py", [*shared, "--soft_targets_path", str(whole)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "kB per 1,000 tokens" in done.stdout
    assert "64 kept ids" in done.stdout
    in_all = read_scored(done.stdout)

    slowly = [*shared, "--soft_targets_path", str(killed), "--soft_targets_batch_size", "1"]
    process = subprocess.Popen(
        [sys.executable, "recipes/cache_teacher.py", *STORED, *slowly],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal = tmp_path / "killed.journal" / "0.sqlite"
    while count_scored(journal) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    scored = count_scored(journal)
    assert 0 < scored < in_all
    assert not killed.exists()
    done = run([sys.executable], "cache_teacher.py", slowly)
    assert done.returncode == 0, done.stderr[-3000:]
    assert scored + read_scored(done.stdout) == in_all
    ours, theirs = (load_from_disk(str(folder))[:] for folder in (killed, whole))
    for column in ("id", "response", "ids_low", "ids_high"):
        assert ours[column] == theirs[column]


def test_two_processes_share_the_rows_and_a_run_trains_on_what_they_made(shared, tmp_path):
    """Rows dealt to both, a table written by one; without the table, or at another temperature, no run starts."""
    table = tmp_path / "table"
    few = ["--max_steps", "2", "--save_strategy", "no", "--output_dir", str(tmp_path / "run")]
    stored = [*shared, "--soft_targets_path", str(table)]
    refused = run([sys.executable], "s2t_t2t.py", [*stored, *few])
    assert refused.returncode != 0
    assert "recipes/cache_teacher.py" in refused.stderr.splitlines()[-1]

    torchrun = ["torchrun", "--standalone", "--nproc_per_node", "2"]
    made = run(torchrun, "cache_teacher.py", stored)
    assert made.returncode == 0, made.stderr[-3000:]
    assert made.stdout.count("kB per 1,000 tokens") == 1
    journals = sorted((tmp_path / "table.journal").glob("*.sqlite"))
    assert [count_scored(journal) > 10 for journal in journals] == [True, True]

    trained = run([sys.executable], "s2t_t2t.py", [*stored, *few])
    assert trained.returncode == 0, trained.stderr[-3000:]
    hotter = run([sys.executable], "s2t_t2t.py", [*stored, *few, "--temperature", "4.0"])
    assert hotter.returncode != 0
    assert "another temperature: the run has 4.0" in hotter.stderr
