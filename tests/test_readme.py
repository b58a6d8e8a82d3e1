"""The README is run, not believed."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "recipes" / "README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=["README", "recipes/README"])
def test_every_file_it_names_is_there(document):
    """A path that moved."""
    text = document.read_text()
    named = re.findall(r"(?<![\w/.])((?:recipes|trainer_ext|data_builders|tests)/[\w/.*-]*)", text)
    assert named
    for path in named:
        path = path.rstrip(".")
        assert list(ROOT.glob(path)) if "*" in path else (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=["README", "recipes/README"])
def test_every_python_block_runs(document, tmp_path):
    """Prevents: an example with a module that moved, an undefined name, or an option that stops it on a CPU."""
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", document.read_text(), re.S)):
        script = tmp_path / f"block_{number}.py"
        script.write_text(block.replace("outputs/", f"{tmp_path}/"))
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]


def test_every_extra_is_named_in_a_document():
    """Prevents: an option whose library nobody is told to install."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    text = "".join(document.read_text() for document in DOCUMENTS)
    assert [extra for extra in extras if f"[{extra}]" not in text] == []


def test_no_figure_was_forgotten():
    """A placeholder where a measurement should stand."""
    for document in DOCUMENTS:
        assert not re.findall(r"\{[A-Z]+\}", document.read_text())
