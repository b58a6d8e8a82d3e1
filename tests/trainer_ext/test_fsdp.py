"""Tests of the loss with a head sharded by FSDP2."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.gradients import TOLERANCE, difference
from tests.support.lab import ROOT
from tests.support.processes import TORCHRUN, run


def run_step(dataset: str, output: Path, processes: int, **settings: bool) -> dict[str, torch.Tensor]:
    """Return the gradients, and the loss by the name "loss"."""
    words = {"dataset": dataset, "output": str(output), **settings}
    script = str(ROOT / "tests" / "support" / "fsdp_step.py")
    run([*TORCHRUN, str(processes), script, json.dumps(words)])
    return load_file(output)


@pytest.fixture(scope="module")
def rows(pairs, tmp_path_factory) -> str:
    """Return a folder of rows of which the second process gets those without speech."""
    four = pairs["train"].select(range(4))
    channels = [["t2t", "s2t"], ["t2t"]] * 2
    folder = tmp_path_factory.mktemp("fsdp") / "rows"
    four.remove_columns("channels").add_column("channels", channels).save_to_disk(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def alone(rows, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Return what one process computes; it shards nothing."""
    return run_step(rows, tmp_path_factory.mktemp("alone") / "1.safetensors", 1, shard_head=False, bf16=False)


@pytest.mark.parametrize(
    ("shard_head", "bf16", "tolerance"),
    [
        (True, False, TOLERANCE),
        pytest.param(False, False, TOLERANCE, marks=pytest.mark.slow),
        pytest.param(False, True, 0.1, marks=pytest.mark.slow),
        pytest.param(True, True, 0.1, marks=pytest.mark.slow),
    ],
)
def test_two_fsdp2_processes_equal_one(rows, alone, tmp_path, shard_head, bf16, tolerance):
    """Prevents: a loss that reads a shard of the head as the whole, crashes on a DTensor, is cast to bfloat16 by FSDP,
    or waits for the audio tower of a process without speech.
    """
    both = run_step(rows, tmp_path / "2.safetensors", 2, shard_head=shard_head, bf16=bf16)
    losses = [float(gradients["loss"]) for gradients in (alone, both)]
    assert abs(losses[0] - losses[1]) < tolerance * losses[0]
    assert difference(drop_loss(alone), drop_loss(both)) < tolerance


def drop_loss(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: gradient for name, gradient in gradients.items() if name != "loss"}
