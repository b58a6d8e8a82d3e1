"""The scores of a run as a table in the terminal and as report.json."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from data_builders.storage.atomic import write_atomic
from trainer_ext.evaluation.scores import ALL_SOURCES, Scores, scores_to_dict

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")


def show_table(before: dict[str, Scores], after: dict[str, Scores], evaluator: str) -> None:
    """Print the scores of every source before and after, in percent, in 80 columns."""
    table = Table(
        title=f"{evaluator} on held-out questions, percent: before → after",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("questions", no_wrap=True)
    for heading in ("teacher\ntext", "student\ntext", "student\nspeech", "gap", "forgetting"):
        table.add_column(heading, justify="right", no_wrap=True)
    for source, new in after.items():
        old = before[source]
        if source == ALL_SOURCES:
            table.add_section()
        table.add_row(
            source.rpartition("/")[2],
            f"{new.teacher_text:.1f}",
            *(f"{getattr(old, name):.1f}→{getattr(new, name):.1f}" for name in ("text", "speech", "gap", "forgetting")),
        )
    Console().print(table)


def write_report(
    file: Path,
    before: dict[str, Scores],
    after: dict[str, Scores],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write scores, facts of the run and library versions; returns the content."""
    report = {
        "before": scores_to_dict(before),
        "after": scores_to_dict(after),
        **facts,
        "versions": {name: version(name) for name in LIBRARIES},
    }
    write_atomic(file, (json.dumps(report, indent=2) + "\n").encode())
    return report
