"""Tests of resuming the recipe after SIGKILL at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.lab import ROOT, write_every
from tests.support.processes import ENVIRONMENT

STEPS = 30


def start(output_dir: Path, data: Path) -> subprocess.Popen:
    """Start the recipe with a save at every step, so that many kills hit a save."""
    return subprocess.Popen(
        [
            sys.executable,
            "recipes/s2t_t2t.py",
            *("--config", "recipes/configs/tiny_t2t_only.yaml", "--channels", "t2t", "s2t"),
            *("--output_dir", str(output_dir), "--cache_dir", str(data)),
            *("--questions", str(data / "questions.jsonl"), "--recordings_per_question", "2"),
            *("--max_steps", str(STEPS), "--save_steps", "1", "--save_total_limit", "2"),
            *("--resume_from_checkpoint", "true"),
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def saved_steps(output_dir: Path) -> int:
    steps = [int(folder.name.split("-")[1]) for folder in output_dir.glob("checkpoint-*")]
    return max(steps, default=0)


@pytest.mark.slow
def test_ten_kills_end_with_the_weights_of_an_uninterrupted_run(tmp_path):
    """Prevents: the failed resumes of the base Trainer, which came back from 5 of 12 such kills."""
    data = tmp_path / "data"
    data.mkdir()
    write_every(10, data / "questions.jsonl")
    assert start(tmp_path / "straight", data).wait(timeout=600) == 0
    chance, killed = random.Random(0), 0
    while killed < 10:
        run = start(tmp_path / "killed", data)
        reached = saved_steps(tmp_path / "killed")
        # Not before it has gone on by a step or two, so that all ten kills fall between first and last step.
        while saved_steps(tmp_path / "killed") < min(reached + 2, STEPS - 1) and run.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.25))
        if run.poll() is not None:
            break
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        killed += 1
    assert killed == 10
    assert start(tmp_path / "killed", data).wait(timeout=600) == 0
    straight = load_file(tmp_path / "straight" / "adapter_model.safetensors")
    resumed = load_file(tmp_path / "killed" / "adapter_model.safetensors")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
