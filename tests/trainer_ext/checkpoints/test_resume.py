"""Tests of resuming the recipe after SIGKILL, SIGTERM and SIGINT at random moments, with a server to push to.

CROSSMODAL_KD_KILLS=20 sends more than the two of the slow tests.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from tests.support.hub.client import environment
from tests.support.hub.server import HubServer
from tests.support.lab import ROOT, write_every
from tests.support.processes import ENVIRONMENT

KILLS = int(os.environ.get("CROSSMODAL_KD_KILLS", "2"))  # and half as many of each other signal
STEPS = max(2, KILLS * 2 // 5)  # so that a good part of the signals comes when all steps are taken
TOTAL = {signal.SIGKILL: KILLS, signal.SIGTERM: KILLS // 2, signal.SIGINT: KILLS // 2}
# Before Python has imported the recipe its own handlers act; a shell calls -15 and -2 by the same 143 and 130.
CODES = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2)}


def accept_interrupts() -> None:
    """Undo what a shell does to background jobs: they ignore SIGINT, and so would everything that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(output_dir: Path, data: Path, hub: HubServer) -> subprocess.Popen:
    """Start the recipe with a save at every step, so that many signals hit a save."""
    return subprocess.Popen(
        [
            sys.executable,
            "recipes/s2t_t2t.py",
            *("--config", "recipes/configs/tiny_t2t_only.yaml", "--channels", "t2t", "s2t"),
            *("--output_dir", str(output_dir), "--cache_dir", str(data), "--lora_dropout", "0.1"),
            *("--questions", str(data / "questions.jsonl"), "--recordings_per_question", "2"),
            *("--max_steps", str(STEPS), "--save_steps", "1", "--save_total_limit", "2"),
            *("--resume_from_checkpoint", "true", "--push_to_hub"),
        ],
        cwd=ROOT,
        preexec_fn=accept_interrupts,
        env={**ENVIRONMENT, **environment(hub)},
        stdout=subprocess.DEVNULL,
        stderr=stderr_file(output_dir).open("w"),
        start_new_session=True,
    )  # fmt: skip


def stderr_file(output_dir: Path) -> Path:
    """Return the file with the last run's errors, for the message of an assertion."""
    return output_dir.with_suffix(".stderr")


def last_step(output_dir: Path) -> int:
    """Return the step of the newest checkpoint, complete or not."""
    return max((int(folder.name.split("-")[1]) for folder in output_dir.glob("checkpoint-*")), default=0)


def is_pushed(hub: HubServer, folder: Path) -> bool:
    """Tell whether a commit has arrived; the repository is made before the training."""
    repository = hub.store.repositories.get(("models", f"tester/{folder.name}"))
    return repository is not None and bool(repository.log)


def wait_for(condition, run: subprocess.Popen) -> None:
    while not condition() and run.poll() is None:
        time.sleep(0.005)


def signal_at_random(run: subprocess.Popen, folder: Path, number: int, seconds: float, chance: random.Random) -> bool:
    """Send a signal in training, or up to so many seconds after the last checkpoint; False if the run had ended."""
    reached = last_step(folder)
    if reached < STEPS:
        # After a step or two of its own, so that all signals together fall between the first and the last step.
        wait_for(lambda: last_step(folder) >= min(reached + chance.randint(1, 3), STEPS), run)
        time.sleep(chance.uniform(0, 0.25))
    else:
        time.sleep(chance.uniform(0.3, 1) * seconds)
    if run.poll() is not None:
        return False
    os.killpg(run.pid, number)
    return True


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Run to the end; returns the weights, the data, and the seconds of a resumed run that has nothing to train."""
    folder = tmp_path_factory.mktemp("straight")
    data = folder / "data"
    data.mkdir()
    write_every(14, data / "questions.jsonl")
    with HubServer() as hub:
        assert start(folder / "run", data, hub).wait(timeout=600) == 0
        weights = load_file(folder / "run" / "adapter_model.safetensors")
        started = time.monotonic()
        assert start(folder / "run", data, hub).wait(timeout=600) == 0
        seconds = time.monotonic() - started  # loading, scoring twice, saving, reporting, pushing
    again = load_file(folder / "run" / "adapter_model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    return weights, data, seconds


@pytest.mark.slow
@pytest.mark.parametrize("number", list(TOTAL), ids=lambda number: number.name)
def test_a_run_that_is_interrupted_again_and_again_ends_with_the_weights_of_one_that_is_not(straight, tmp_path, number):
    """Prevents: other weights, steps beyond the last, half checkpoints, and a publication of what has not ended."""
    expected, data, again = straight
    folder, chance, sent, in_tail = tmp_path / "stopped", random.Random(0), 0, 0
    with HubServer() as hub:
        for tries in itertools.count():
            if sent == TOTAL[number]:
                break
            assert tries < 20 * TOTAL[number], f"only {sent} signals reached a run"
            run = start(folder, data, hub)
            after_last_step = last_step(folder) == STEPS
            hit = signal_at_random(run, folder, number, again, chance)
            code = run.wait(timeout=600)
            if not hit or code == 0:  # it had ended
                assert code == 0
                hub.store.repositories.clear()
                continue
            assert code in CODES[number], stderr_file(folder).read_text()[-3000:]
            assert last_step(folder) <= STEPS
            if is_pushed(hub, folder):  # killed after the push, which is the last thing that a run does
                assert (folder / "report.json").exists()
                assert after_last_step
                hub.store.repositories.clear()
            sent += 1
            in_tail += after_last_step
        assert start(folder, data, hub).wait(timeout=600) == 0
        pushed = load(hub.files(f"tester/{folder.name}")["adapter_model.safetensors"])
    print(f"{number.name}: {sent} sent, {in_tail} of them when all steps were taken")
    assert in_tail >= sent // 4
    resumed = load_file(folder / "adapter_model.safetensors")
    assert expected.keys() == resumed.keys() == pushed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert all(torch.equal(expected[name], pushed[name]) for name in expected)
    assert {path.name for path in folder.rglob("*.partial")} == set()
