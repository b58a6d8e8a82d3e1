"""Tests that the dependencies of the package are stated: lowest versions, licenses, extras."""

import re
import tomllib
from itertools import chain

import pytest

from tests.support.lab import ROOT
from trainer_ext.command_line import EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {name: words for name, words in PROJECT["optional-dependencies"].items() if name != "dev"}


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *chain(*OPTIONAL.values())])
def test_every_dependency_has_a_lowest_version_and_a_stated_license(requirement):
    """Prevents: a version that was never tried, and a copyleft part that nobody is told of."""
    if name_of(requirement) == PROJECT["name"]:
        return
    assert ">=" in requirement
    assert re.search(rf"^\| .*\b{re.escape(name_of(requirement))}\b.* \|", (ROOT / "THIRD_PARTY.md").read_text(), re.M)


def test_the_first_command_installs_what_it_runs():
    """Prevents: a first command that ends in `espeak-ng is not installed`."""
    first = next(line for line in (ROOT / "README.md").read_text().splitlines() if "pip install" in line)
    assert "espeak" in first
    assert "espeakng-loader" not in " ".join(PROJECT["dependencies"])


def test_a_missing_library_is_named_with_its_extra():
    """Prevents: a bare ModuleNotFoundError for a library of an extra."""
    names = {name_of(word).replace("-", "_") for words in OPTIONAL.values() for word in words}
    ours = {"crossmodal_kd", "espeakng_loader", "pyroomacoustics"}  # espeak-ng has a message of its own
    assert names - ours - {"if_verifiable"} <= set(EXTRAS)
