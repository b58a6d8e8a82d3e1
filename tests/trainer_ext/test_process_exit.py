"""Tests of how a command ends."""

import sys
from pathlib import Path

import pytest

from tests.support.processes import run

TRAIN_AND_LEAVE = """
import torch
from torch.nn.parallel import DistributedDataParallel
from trainer_ext.command_line import leave_process_group

def train():
    model = DistributedDataParallel(torch.nn.Linear(2, 2))
    model.module.trainer = [model]  # a cycle of references, as a Trainer and its callbacks are
    model(torch.ones(1, 2)).sum().backward()
    print_threads()

def print_threads():
    import pathlib
    print(*sorted(file.read_text().strip() for file in pathlib.Path("/proc/self/task").glob("*/comm")))

torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
train()
leave_process_group()
print_threads()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists the threads of a process there")
def test_a_finished_run_leaves_no_thread_of_its_process_group():
    """Prevents: SIGABRT after the last step, where such a thread frees a tensor while the interpreter ends."""
    training, finished = run([sys.executable, "-c", TRAIN_AND_LEAVE]).stdout.splitlines()
    assert "gloo" in training
    assert "gloo" not in finished
