"""The outcomes of all questions and rows as a table in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def show_outcomes(counts: dict[str, dict[str, int]]) -> None:
    """Print the counts of outcomes by stage, as a data set's manifest has them."""
    table = Table("stage", "outcome", "rows", box=SIMPLE_HEAD)
    for stage, outcomes in counts.items():
        for outcome, count in outcomes.items():
            table.add_row(stage, outcome, f"{count:,}")
    Console().print(table)
