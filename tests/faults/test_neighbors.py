"""Attacks by neighbors: two runs, builds or caching passes in one folder, and a build under a reader."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset, load_from_disk

from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.attacks import SCALE
from tests.support.lab import ROOT, TEACHER, write_every
from tests.support.processes import ENVIRONMENT

SWAP = """
import shutil, sys
from pathlib import Path
from data_builders.storage.atomic import atomic_folder
target, sources = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
while True:
    for source in sources:
        with atomic_folder(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
"""


def start(*command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finish(*processes: subprocess.Popen) -> list[tuple[int, str, str]]:
    """Return exit code, output and errors of each."""
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, output, errors) for process, (output, errors) in zip(processes, said, strict=True)]


def test_a_reader_sees_the_old_data_set_or_the_new_one(tmp_path):
    """Prevents: a training on the first half of one data set and the second half of another."""
    for name in ("a", "b"):
        (tmp_path / name / "data").mkdir(parents=True)
        for number in range(4):
            rows = Dataset.from_dict({"id": [f"{name}{number}"] * 5, "question": [name] * 5})
            rows.to_parquet(tmp_path / name / "data" / f"train-{number:05d}-of-00004.parquet")
    target = tmp_path / "set"
    swapping = start("-c", SWAP, str(target), str(tmp_path / "a"), str(tmp_path / "b"))
    try:
        while not target.exists():
            time.sleep(0.01)
        seen = set()
        for _ in range(20 * SCALE):
            rows = load_dataset_folder(str(target))["train"]
            assert len(rows) == 20
            assert len(set(rows["question"])) == 1
            seen |= set(rows["question"])
    finally:
        os.killpg(swapping.pid, signal.SIGKILL)
        swapping.communicate()
    assert seen == {"a", "b"}


@pytest.fixture
def questions(tmp_path) -> Path:
    return write_every(12, tmp_path / "questions.jsonl")


def make_build(folder: Path, questions: Path, *more: str) -> list[str]:
    words = [
        "--config",
        "recipes/configs/data/tiny.yaml",
        "--questions",
        str(questions),
        "--output_dir",
        f"{folder}/set",
    ]
    words += ["--cache_dir", f"{folder}/cache", "--teacher_model_name_or_path", TEACHER]
    return ["recipes/build_data.py", *words, *more]


@pytest.mark.faults
def test_two_runs_in_one_folder(tmp_path, questions):
    """Prevents: a run that dies because another one cleaned up, and two runs' files in one folder."""
    words = ["recipes/s2t_t2t.py", "--config", "recipes/configs/tiny.yaml", "--questions", str(questions)]
    words += ["--output_dir", str(tmp_path / "run"), "--cache_dir", str(tmp_path / "data")]
    first = start(*words, "--max_steps", "100000")
    while not (tmp_path / "run" / ".lock").exists() and first.poll() is None:
        time.sleep(0.01)
    time.sleep(0.5)
    [(code, _, errors)] = finish(start(*words, "--max_steps", "3"))
    assert f"is in use: name another output_dir, or wait for process {first.pid} on" in errors
    assert code == 2
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    [(code, _, errors)] = finish(start(*words, "--max_steps", "3", "--overwrite_output_dir", "true"))
    assert code == 0, errors
    assert (tmp_path / "run" / "report.json").exists()


@pytest.mark.faults
@pytest.mark.parametrize("delay", [0, 1, 3, 5])
def test_two_builds_of_the_same_data_set(tmp_path, questions, delay):
    """Prevents: two processes that write the same shards, one of which dies."""
    first = start(*make_build(tmp_path, questions))
    time.sleep(delay)
    second = start(*make_build(tmp_path, questions))
    assert [code for code, _, _ in finish(first, second)] == [0, 0]
    assert len(load_dataset_folder(str(tmp_path / "set"))["train"])


@pytest.mark.faults
@pytest.mark.parametrize("delay", [0, 2, 4])
def test_two_builds_of_different_data_sets_in_one_folder(tmp_path, questions, delay):
    """Prevents: a data set that is replaced by another one without a word."""
    first = start(*make_build(tmp_path, questions))
    time.sleep(delay)
    second = start(*make_build(tmp_path, questions, "--train_voices", "en-us"))
    results = finish(first, second)
    assert sorted(code for code, _, _ in results) == [0, 2]
    assert any("holds another data set" in errors for _, _, errors in results)
    voices = set(load_dataset_folder(str(tmp_path / "set"))["train"]["voice"])
    assert (voices == {"en-us"}) == (results[1][0] == 0)


@pytest.mark.faults
def test_two_caching_passes(tmp_path, questions):
    """Prevents: rows scored twice, and a table of one teacher under the settings of another."""
    words = ["recipes/cache_teacher.py", "--config", "recipes/configs/tiny_stored.yaml", "--questions", str(questions)]
    words += ["--cache_dir", str(tmp_path / "data"), "--soft_targets_path", str(tmp_path / "soft")]
    equal = finish(start(*words), start(*words))
    assert [code for code, _, _ in equal] == [0, 0]
    scored = sorted(int(re.search(r"\((\d+) scored now\)", output)[1]) for _, output, _ in equal)
    assert scored[0] == 0 < scored[1]
    assert len(load_from_disk(str(tmp_path / "soft"))) >= scored[1]
    subprocess.run(["rm", "-rf", str(tmp_path / "soft")], check=True)
    different = finish(start(*words), start(*words, "--soft_targets_k", "8"))
    assert sorted(code for code, _, _ in different) == [0, 2]
    assert any("holds soft targets with k" in errors for _, _, errors in different)
