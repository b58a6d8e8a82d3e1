"""Tests of the order of rows and of the evaluation in two processes over gloo."""

import collections
import json
import sys

import pytest

from tests.support.processes import TORCHRUN, run

SCRIPT = "tests/support/grouped_run.py"


@pytest.fixture
def start(pairs, tmp_path):
    """Run the script in so many processes; returns its folder."""
    small = pairs.__class__({"train": pairs["train"].select(range(16)), "test": pairs["test"].select(range(7))})
    small.save_to_disk(str(tmp_path / "data"))

    def launch(processes: int, name: str, strategy: str = "group_by_length", stop_at: int = 0, check: bool = True):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        launcher = [sys.executable] if processes == 1 else [*TORCHRUN, str(processes)]
        run([*launcher, SCRIPT, str(tmp_path / "data"), str(folder), strategy, str(stop_at)], check=check)
        return folder

    return launch


def rows_by_epoch(folder):
    seen = collections.defaultdict(list)
    for file in folder.glob("rows-*.json"):
        epoch, ids = json.loads(file.read_text())
        seen[epoch] += ids
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance", "max_batch_tokens"])
def test_two_processes_with_dropout_killed_in_epoch_two_see_every_row_once(start, pairs, strategy):
    """Prevents: 13 to 15 of 16 rows: processes whose dropout drew differently divided different orders among them."""
    start(2, "run", strategy, stop_at=6, check=False)
    folder = start(2, "run", strategy)
    expected = sorted(pairs["train"].select(range(16))["id"])
    assert [sorted(ids) for _, ids in sorted(rows_by_epoch(folder).items())] == [expected, expected]


@pytest.mark.slow
def test_two_processes_evaluate_every_row_once(start):
    """Prevents: the row that fills the last batch, counted twice (0.472 for 0.5047)."""
    alone, both = (json.loads((start(n, str(n), stop_at=-1) / "eval.json").read_text()) for n in (1, 2))
    for name in ("eval_loss", "eval_t2t/ce", "eval_s2t/ce", "eval_t2t/kl", "eval_s2t/kl", "eval_s2t/token_accuracy"):
        assert both[name] == pytest.approx(alone[name], rel=1e-4), name
