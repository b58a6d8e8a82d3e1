"""Tests of the loss with a head sharded by FSDP2."""

import json

import pytest
from safetensors.torch import load_file

from tests.support.gradients import TOLERANCE, difference
from tests.support.lab import ROOT
from tests.support.processes import TORCHRUN, run


@pytest.mark.parametrize(
    ("shard_head", "bf16", "tolerance"),
    [
        (True, False, TOLERANCE),
        pytest.param(False, False, TOLERANCE, marks=pytest.mark.slow),
        pytest.param(False, True, 0.1, marks=pytest.mark.slow),
        pytest.param(True, True, 0.1, marks=pytest.mark.slow),
    ],
)
def test_two_fsdp2_processes_equal_one(pairs, tmp_path, shard_head, bf16, tolerance):
    """Prevents: a loss that reads a shard of the head as the whole, crashes on a DTensor, or is cast to bfloat16 by
    FSDP.
    """
    rows = pairs["train"].select(range(4))
    # The second process gets the rows without speech, and no process may wait for its audio tower.
    channels = [["t2t", "s2t"], ["t2t"]] * 2
    rows = rows.remove_columns("channels").add_column("channels", channels)
    rows.save_to_disk(str(tmp_path / "rows"))
    seen = []
    for processes in (1, 2):
        settings = {
            "dataset": str(tmp_path / "rows"),
            "output": str(tmp_path / f"{processes}.safetensors"),
            "shard_head": shard_head,
            "bf16": bf16,
        }
        script = str(ROOT / "tests" / "support" / "fsdp_step.py")
        run([*TORCHRUN, str(processes), script, json.dumps(settings)])
        seen.append(load_file(settings["output"]))
    losses = [float(gradients.pop("loss")) for gradients in seen]
    assert abs(losses[0] - losses[1]) < tolerance * losses[0]
    assert difference(*seen) < tolerance
