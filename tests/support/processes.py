"""Recipes in processes of their own."""

import os
import subprocess
import sys

from tests.support.lab import ROOT

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TORCHRUN = ["torchrun", "--standalone", "--nproc_per_node"]


def run(command: list[str], timeout: int = 300, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Run a command in the repository's root, offline and on one thread; `check` asserts its success."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0 or not check, done.stderr[-4000:]
    return done


def run_recipe(
    name: str, words: list[str], processes: int = 1, check: bool = True, **environment: str
) -> subprocess.CompletedProcess:
    """Run recipes/<name> with one process, or several over gloo."""
    launcher = [sys.executable] if processes == 1 else [*TORCHRUN, str(processes)]
    return run([*launcher, f"recipes/{name}", *words], check=check, **environment)
