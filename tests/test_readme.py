"""The README is run, not believed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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


def test_the_tree_is_the_tree():
    """A tree that lags the repository leads newcomers nowhere."""
    text = (ROOT / "README.md").read_text()
    for package in ("trainer_ext", "data_builders"):
        for file in (ROOT / package).glob("*.py"):
            assert file.name == "__init__.py" or file.stem in text, file


def test_no_figure_was_forgotten():
    """A placeholder where a measurement should stand."""
    for document in DOCUMENTS:
        assert not re.findall(r"\{[A-Z]+\}", document.read_text())
