"""The loss sees a head that is spread over processes."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.trainer_ext.test_invariance import TOLERANCE, difference


@pytest.mark.parametrize(
    ("shard_head", "bf16", "tolerance"),
    [(False, False, TOLERANCE), (True, False, TOLERANCE), (False, True, 0.1), (True, True, 0.1)],
)
def test_two_fsdp2_processes_equal_one(pairs, tmp_path, shard_head, bf16, tolerance):
    """A loss outside the forward reads a shard of the head as if it were all of it, or crashes on a DTensor.

    In bfloat16 the teacher's signal and the parts of the loss keep their precision, which FSDP would cast.
    """
    rows = pairs["train"].select(range(4))
    # The second process gets every second row: it has nothing to hear, and nothing may wait for it.
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
        subprocess.run(
            [
                *("torchrun", "--standalone", "--nproc_per_node", str(processes)),
                str(Path(__file__).parents[1] / "support" / "fsdp_step.py"),
                json.dumps(settings),
            ],
            check=True,
            timeout=300,
            capture_output=True,
        )
        seen.append(load_file(settings["output"]))
    losses = [float(gradients.pop("loss")) for gradients in seen]
    assert abs(losses[0] - losses[1]) < tolerance * losses[0]
    assert difference(*seen) < tolerance
