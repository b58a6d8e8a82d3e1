"""Attacks by time and chance: thousands of steps, other hash seeds, workers, a process that dies among others."""

import contextlib
import hashlib
import os
import signal
import subprocess
import time

import numpy as np
import psutil
import pytest
from peft import LoraConfig
from transformers import TrainerCallback

from tests.support.lab import ROOT, write_every
from tests.support.processes import ENVIRONMENT, TORCHRUN, run_recipe

pytestmark = pytest.mark.faults
STEPS = 2_000
ENDED_SECONDS = 60  # after the death of another process; torchrun itself waits 30 s before it kills


class Meter(TrainerCallback):
    """Measure memory (MB), open files and threads of this process every 50 steps."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, float, int, int]] = []

    def on_step_end(self, args, state, control, **_):
        if state.global_step % 50 == 0:
            process = psutil.Process()
            memory = process.memory_info().rss / 1e6
            self.samples.append((state.global_step, memory, process.num_fds(), process.num_threads()))


def test_two_thousand_steps_do_not_grow(make_trainer, family, capsys):
    """Prevents: a night that ends in an out-of-memory, or in too many open files."""
    meter = Meter()
    trainer = make_trainer(
        peft_config=LoraConfig(target_modules=family.lora_target_modules), per_device_train_batch_size=1,
        max_steps=STEPS, logging_steps=10, save_strategy="steps", save_steps=200, save_total_limit=2,
    )  # fmt: skip
    trainer.add_callback(meter)
    trainer.train()
    steps, memory, files, threads = np.array(meter.samples).T
    late = steps > STEPS / 4
    slope = np.polyfit(steps[late], memory[late], 1)[0] * 1_000
    with capsys.disabled():
        print(
            f"\n{STEPS} steps: {slope:+.1f} MB per 1,000 steps, open files {files.min():.0f} to {files.max():.0f}, "
            f"threads {threads.min():.0f} to {threads.max():.0f}"
        )
    assert slope < 10
    assert np.ptp(files[late]) <= 4
    assert np.ptp(threads[late]) <= 2


def test_five_runs_end_in_one_adapter(tmp_path):
    """Prevents: results that depend on the order of a set, or on the number of data loader workers."""
    questions = write_every(12, tmp_path / "questions.jsonl")
    words = ["--config", "recipes/configs/tiny.yaml", "--questions", str(questions), "--max_steps", "6"]
    words += ["--cache_dir", str(tmp_path / "data"), "--output_dir"]
    digests = set()
    for number, (workers, seed) in enumerate(((0, "0"), (0, "1"), (2, "2"), (2, "3"), (0, "random"))):
        folder = tmp_path / f"run{number}"
        more = ["--dataloader_num_workers", str(workers)]
        run_recipe("s2t_t2t.py", [*words, str(folder), *more], PYTHONHASHSEED=seed)
        digests.add(hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_death_of_one_process_ends_the_others(tmp_path, capsys):
    """Prevents: seven GPUs that wait for an eighth for half an hour, or for ever."""
    questions = write_every(12, tmp_path / "questions.jsonl")
    words = ["recipes/s2t_t2t.py", "--config", "recipes/configs/tiny.yaml", "--questions", str(questions)]
    words += ["--max_steps", "100000", "--cache_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run")]
    words += ["--logging_steps", "1"]
    log, environment = (tmp_path / "log").open("w+"), {**ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
    run = subprocess.Popen([*TORCHRUN, "2", *words], cwd=ROOT, env=environment, stdout=log, stderr=log)
    ranks: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 200
        while "train step" not in (tmp_path / "log").read_text():
            assert run.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        children = psutil.Process(run.pid).children(recursive=True)
        ranks = [child for child in children if "s2t_t2t" in str(child.cmdline())]
        victim = next(child for child in ranks if child.environ().get("RANK") == "1")
        began = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        assert run.wait(ENDED_SECONDS) != 0
        seconds = time.monotonic() - began
        assert not [child for child in ranks if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    finally:
        for process in (run, *ranks):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    with capsys.disabled():
        print(f"\none of two processes killed: the others ended after {seconds:.1f} s")
