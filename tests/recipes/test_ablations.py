"""Tests of the table of recipes/ablations.py."""

import json
import runpy

import pytest

from tests.support.lab import ROOT


@pytest.fixture(scope="module")
def ablations():
    return runpy.run_path(str(ROOT / "recipes" / "ablations.py"))


def write_report(folder, sounds: dict | None) -> None:
    scores = dict.fromkeys(("teacher_text", "text", "speech", "gap", "forgetting"), 50.0)
    report = {"before": {"all": scores}, "after": {"all": scores}, "judge_free": [], "evaluator": "exact_answer"}
    report |= {"peak_memory_gib": 1, "seconds_per_step": 1, **({} if sounds is None else {"sounds": sounds})}
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report))


@pytest.mark.parametrize("order", [("with", "without"), ("without", "with")])
def test_a_table_has_a_column_for_sounds_if_any_run_was_asked_about_them(ablations, tmp_path, order):
    """Prevents: an error after hours of training, or a score that nobody sees."""
    write_report(tmp_path / "with-0", {"before": {"all": 91.0}, "after": {"all": 12.5}})
    write_report(tmp_path / "without-0", None)
    variants = [ablations["Variant"](name, "tiny") for name in order]
    head, _, *lines = ablations["make_table"](variants, [0], tmp_path).splitlines()
    column = [cell.strip() for cell in head.split("|")].index("sounds")
    cells = {line.split("|")[1].strip(): line.split("|")[column].strip() for line in lines}
    assert (cells["with"], cells["without"]) == ("12.5", "")
    assert len({line.count("|") for line in [head, *lines]}) == 1
