"""Rules of naming and prose that a machine can check."""

import ast
from pathlib import Path

import pytest

from tests.support.lab import ROOT

FOLDERS = ("data_builders", "trainer_ext", "recipes", "tests")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
QUESTION_WORDS = (
    "what",
    "who",
    "whom",
    "whose",
    "how",
    "where",
    "when",
    "why",
    "which",
    "whether",
    "does",
    "is",
    "can",
)


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def docstrings(file: Path) -> list[str]:
    """Return all docstrings of a file."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)]
    return [docstring for node in nodes if (docstring := ast.get_docstring(node))]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_docstring_begins_with_a_question_word(file):
    """Prevents: docstrings that describe a thing by a clause instead of saying what a function returns or does."""
    begins = [docstring for docstring in docstrings(file) if docstring.split()[0].lower() in QUESTION_WORDS]
    assert not begins


@pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("test_*.py")), ids=name)
def test_no_test_module_imports_another(file):
    """Prevents: helpers in test modules, which tie tests to one another."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            assert node.module.startswith("tests.support"), node.module


@pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("test_*.py")), ids=name)
def test_every_test_says_what_it_prevents(file):
    """Prevents: tests whose failure nobody can judge."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert (ast.get_docstring(node) or "").startswith("Prevents:"), node.name
