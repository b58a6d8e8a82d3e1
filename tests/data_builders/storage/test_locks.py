"""Tests of locks among processes that share a folder."""

import subprocess
import sys

import pytest

from data_builders.storage.locks import hold_until_end, locked, release_held
from tests.support.processes import ENVIRONMENT

HOLD = """
import sys, time
from pathlib import Path
from data_builders.storage.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a lock until its input is closed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "shared" / "a.lock")]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_held_by_one_and_passed_on(holder, tmp_path, capsys):
    """Prevents: machines with one cache_dir that start together and delete each other's unfinished selection."""
    file = tmp_path / "shared" / "a.lock"
    with pytest.raises(ValueError, match=f"in use by process {holder.pid} on "):
        hold_until_end(file, "in use by")
    holder.stdin.close()
    with locked(file, "selects"):
        assert holder.wait(10) == 0


def test_the_lock_of_a_killed_process_is_free(holder, tmp_path):
    """Prevents: a folder that nobody can use after a kill -9."""
    holder.kill()
    holder.wait()
    hold_until_end(tmp_path / "shared" / "a.lock", "in use by")
    release_held()
