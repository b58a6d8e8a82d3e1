"""Tests of the end of a recipe's process."""

import sys
from pathlib import Path

import pytest

from tests.support.processes import run

TRAIN_AND_LEAVE = """
import torch
from torch.nn.parallel import DistributedDataParallel
from trainer_ext.command_line import run_command

def train():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    model = DistributedDataParallel(torch.nn.Linear(2, 2))
    model.module.trainer = [model]  # a cycle of references, as a Trainer and its callbacks are
    model(torch.ones(1, 2)).sum().backward()
    print_threads()

def main():  # not the script itself, whose process run_command ends
    run_command(train)
    print_threads()

def print_threads():
    import pathlib
    print(*sorted(file.read_text().strip() for file in pathlib.Path("/proc/self/task").glob("*/comm")))

main()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists the threads of a process there")
def test_a_finished_run_leaves_no_thread_of_its_process_group():
    """Prevents: SIGABRT after the last step, where such a thread frees a tensor while the interpreter ends."""
    training, finished = run([sys.executable, "-c", TRAIN_AND_LEAVE]).stdout.splitlines()
    assert "gloo" in training
    assert "gloo" not in finished


WITH_A_THREAD_AND_A_HANDLER = """
import atexit, sys, threading, time
from trainer_ext.process_exit import end_process, is_called_by_script

def wait():
    time.sleep(0.2)
    print("thread")

def end():
    if is_called_by_script():
        end_process(7)
    print("not the script")

atexit.register(print, "handler")
threading.Thread(target=wait).start()
end()
"""


def test_a_script_ends_after_its_threads_and_exit_handlers_with_its_code():
    """Prevents: an upload that is cut off, a temporary folder that stays, the last lines of a log missing."""
    done = run([sys.executable, "-c", WITH_A_THREAD_AND_A_HANDLER], check=False)
    assert (done.stdout.split(), done.returncode) == (["thread", "handler"], 7)


def test_a_script_under_a_profiler_returns_to_it(tmp_path):
    """Prevents: a profile of hours that is never written."""
    script = tmp_path / "script.py"
    script.write_text(WITH_A_THREAD_AND_A_HANDLER)
    profile = tmp_path / "profile"
    done = run([sys.executable, "-m", "cProfile", "-o", str(profile), str(script)])
    assert "not the script" in done.stdout
    assert profile.stat().st_size > 0


def test_an_output_that_nobody_reads_is_reported_by_the_interpreter():
    """Prevents: exit code 0 of a command whose result was not written."""
    command = f"{sys.executable} -c '{WITH_A_THREAD_AND_A_HANDLER}' > /dev/full"
    done = run(["bash", "-c", command], check=False, PYTHONUNBUFFERED="")
    assert done.returncode == 120
    assert "No space left" in done.stderr
