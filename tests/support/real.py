"""Real models and tokenizers, which are not part of the project."""

import os
from pathlib import Path

import pytest

VARIABLE = "CROSSMODAL_KD_REAL"


def find_real(name: str) -> Path:
    """Return a folder below the one that CROSSMODAL_KD_REAL names; skips the test where it is missing."""
    folder = Path(os.environ.get(VARIABLE, "")) / name
    if VARIABLE not in os.environ or not folder.is_dir():
        pytest.skip(f"set {VARIABLE} to a folder that holds {name}; CONTRIBUTING.md says how to fill it")
    return folder
