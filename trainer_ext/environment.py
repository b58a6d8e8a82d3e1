"""Version, commit, libraries and hardware: the facts of a report, a card and a diagnosis."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGE = "crossmodal-kd"
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "evaluate", "scipy")
ROOT = Path(__file__).parents[1]


def describe_environment() -> dict[str, Any]:
    """Return version, commit, libraries and hardware."""
    return {
        "version": find_version(PACKAGE),
        "commit": find_commit(),
        "libraries": {name: find_version(name) for name in LIBRARIES},
        "hardware": find_hardware(),
        "python": platform.python_version(),
    }


def find_version(name: str) -> str | None:
    """Return the version of an installed package; None for one that is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def find_commit() -> str | None:
    """Return the commit of a source checkout; None for an installed package."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None


def find_hardware() -> str:
    """Return the accelerator's name, or the processor's with its threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
