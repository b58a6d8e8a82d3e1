"""Run a recipe in this process as `python recipes/NAME.py ...` would, so that libraries are imported once."""

import runpy
import sys

import pytest

from tests.support.lab import ROOT


def run_script(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> tuple[str, str]:
    """Return its standard output, and the last line of its standard error if it exited with an error ("" otherwise)."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, *words])
    capsys.readouterr()
    try:
        runpy.run_path(str(ROOT / "recipes" / name), run_name="__main__")
    except SystemExit:
        said = capsys.readouterr()
        return said.out, said.err.strip().splitlines()[-1]
    return capsys.readouterr().out, ""
