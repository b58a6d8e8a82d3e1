"""Run a recipe in this process as `python recipes/NAME.py ...` would, so that libraries are imported once."""

import runpy
import signal
import sys

import pytest

from tests.support.lab import ROOT


def run_script(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> tuple[str, str]:
    """Return its standard output, and its message if it exited with an error ("" otherwise)."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, *words])
    capsys.readouterr()
    handler = signal.getsignal(signal.SIGTERM)
    code = 0
    try:
        runpy.run_path(str(ROOT / "recipes" / name), run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capsys.readouterr()
    if code == 0:
        return said.out, ""
    assert code == 2, said.err
    assert "Traceback" not in said.err
    return said.out, said.err[said.err.rindex(f"{name}: error: ") :]
