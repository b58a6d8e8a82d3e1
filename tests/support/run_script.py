"""Run a recipe in this process as `python recipes/NAME.py ...` would, so that libraries are imported once."""

import runpy
import signal
import sys
from pathlib import Path

import pytest

from tests.support.lab import ROOT


def run_recipe_script(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> tuple[int, str, str]:
    """Return its exit code, standard output and standard error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, *words])
    capsys.readouterr()
    handler = signal.getsignal(signal.SIGTERM)
    code = 0
    try:
        runpy.run_path(str(ROOT / "recipes" / name), run_name="__main__")
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
    written = capsys.readouterr()
    return code, written.out, written.err


def run_script(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> tuple[str, str]:
    """Return its standard output, and its message if it exited with an error ("" otherwise)."""
    code, output, errors = run_recipe_script(name, words, monkeypatch, capsys)
    if code == 0:
        return output, ""
    assert code == 2, errors
    assert "Traceback" not in errors
    return output, errors[errors.rindex(f"{Path(name).name}: error: ") :]
