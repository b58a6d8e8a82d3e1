"""Attacks by kill -9 at random moments: of a build, a caching pass, an evaluation and a push.

After every kill the work starts again; at the end it equals work that was never killed, and nothing is left over.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from datasets import load_from_disk

from data_builders.storage.atomic import REPLACED, SUFFIX
from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.hub.client import environment
from tests.support.hub.server import HubServer
from tests.support.lab import ROOT, STUDENT, TEACHER, write_every
from tests.support.processes import ENVIRONMENT, run

KILLS = int(os.environ.get("CROSSMODAL_KD_KILLS", "20"))
pytestmark = pytest.mark.faults


def start(command: list[str], **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env={**ENVIRONMENT, **variables}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kill_again_and_again(command: list[str], check: Callable[[], None], **variables: str) -> int:
    """Start a command and kill it, KILLS times; returns how many times it was killed before its end.

    Args:
        check: called after every kill; asserts that nothing half-written passes for whole.
    """
    chance, seconds, killed = random.Random(0), 12.0, 0
    for _ in range(KILLS):
        began = time.monotonic()
        process = start(command, **variables)
        try:
            process.wait(chance.uniform(0.5, seconds))
            seconds = max(time.monotonic() - began, 3.0)  # it has ended: the next one is killed earlier
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        check()
    return killed


def list_leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((SUFFIX, REPLACED))]


@pytest.fixture
def questions(tmp_path) -> Path:
    return write_every(8, tmp_path / "questions.jsonl")


def make_build(folder: Path, questions: Path, *more: str) -> list[str]:
    words = ["--config", "recipes/configs/data/tiny.yaml", "--questions", str(questions), "--max_shard_size", "1MB"]
    words += ["--teacher_model_name_or_path", TEACHER, "--answer_batch_size", "2"]
    return ["recipes/build_data.py", *words, "--cache_dir", f"{folder}/cache", "--output_dir", f"{folder}/set", *more]


def read_rows(folder: Path) -> dict[str, list]:
    return {split: rows[:] for split, rows in load_dataset_folder(str(folder)).items()}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_build(tmp_path, questions, workers):
    """Prevents: rows twice, half a shard, finished clips made again, a data set that cannot be built any more."""
    run([sys.executable, *make_build(tmp_path / "straight", questions)])

    def check():
        if (tmp_path / "killed" / "set").exists():
            read_rows(tmp_path / "killed" / "set")

    command = make_build(tmp_path / "killed", questions, "--workers", workers)
    assert kill_again_and_again(command, check) >= 5
    run([sys.executable, *command])
    assert read_rows(tmp_path / "killed" / "set") == read_rows(tmp_path / "straight" / "set")
    assert not list_leftovers(tmp_path / "killed")


def test_a_caching_pass(tmp_path, questions):
    """Prevents: rows scored twice, and a table without its end."""
    words = ["recipes/cache_teacher.py", "--config", "recipes/configs/tiny_stored.yaml", "--questions", str(questions)]
    words += ["--cache_dir", str(tmp_path / "data"), "--soft_targets_batch_size", "2", "--soft_targets_path"]
    run([sys.executable, *words, str(tmp_path / "straight")])

    def check():
        if (tmp_path / "killed").exists():
            assert len(load_from_disk(str(tmp_path / "killed")))

    assert kill_again_and_again([*words, str(tmp_path / "killed")], check) >= 5
    done = run([sys.executable, *words, str(tmp_path / "killed")])
    assert "(0 scored now)" in done.stdout or "scored now" in done.stdout
    ours, theirs = (load_from_disk(str(tmp_path / name))[:] for name in ("killed", "straight"))
    for column in ("id", "response_hash", "ids_low", "ids_high"):
        assert ours[column] == theirs[column]
    assert not list_leftovers(tmp_path)


def test_an_evaluation(tmp_path, questions):
    """Prevents: answers that are lost or asked twice, and a report of some of them."""
    config = yaml.safe_load((ROOT / "recipes/configs/tiny.yaml").read_text())
    config |= {"questions": str(questions), "cache_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    words = ["recipes/eval_speech.py", "--model_name_or_path", STUDENT, "--teacher_model_name_or_path", TEACHER]
    words += ["--dtype", "float32", "--run_config", str(tmp_path / "run.yaml"), "--evaluator", "exact_answer"]
    words += ["--batch_size", "2", "--output_dir"]
    run([sys.executable, *words, str(tmp_path / "straight")])

    def check():
        if (report := tmp_path / "killed" / "report.json").exists():
            json.loads(report.read_text())

    assert kill_again_and_again([*words, str(tmp_path / "killed")], check) >= 5
    run([sys.executable, *words, str(tmp_path / "killed")])
    ours, theirs = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("killed", "straight"))
    for key in ("scores", "differences", "overall"):
        assert ours[key] == theirs[key]
    lines = [json.loads(line) for file in (tmp_path / "killed").rglob("answers/*/*.jsonl") for line in file.open()]
    asked = [(line["label"], line["modality"], line["item"]["id"]) for line in lines]
    assert len(asked) == len(set(asked))
    assert not list_leftovers(tmp_path / "killed")


@pytest.fixture
def hub(tmp_path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as server:
        yield server


def test_a_push(tmp_path, questions, hub):
    """Prevents: a repository with half of a data set, two commits, or a card of another state."""
    build = make_build(tmp_path, questions)
    run([sys.executable, *build])
    command = ["recipes/push.py", str(tmp_path / "set"), "spoken"]

    hub.create("tester/spoken", "dataset")

    def check():
        files = set(hub.files("tester/spoken", "dataset"))
        assert files <= {".gitattributes", "README.md"} or "manifest.json" in files

    assert kill_again_and_again(command, check, **environment(hub)) >= 5
    run([sys.executable, *command], **environment(hub))
    files = hub.files("tester/spoken", "dataset")
    for path, content in files.items():
        if path not in ("README.md", ".gitattributes"):
            assert (tmp_path / "set" / path).read_bytes() == content
    assert len(hub.find("tester/spoken", "dataset").log) <= 2  # with the one that made the repository
