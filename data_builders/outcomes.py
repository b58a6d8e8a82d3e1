"""The outcome of work on a row, as a type instead of a message."""

from collections.abc import Sequence
from dataclasses import dataclass

ROWS_NAMED = 200  # in an error


@dataclass(frozen=True)
class Rejected:
    """A row that is left out of the data set, or of a run.

    Attributes:
        stage: questions, answers, speech, verification or training.
        code: a stable snake_case name; tables count rows by it.
        detail: the measured value or the engine's message; may be empty.
    """

    stage: str
    code: str
    detail: str = ""


class RowRejected(ValueError):
    """A row that cannot be used, raised where a return value has no place for its rejection."""

    def __init__(self, row_id: str, rejected: Rejected) -> None:
        super().__init__(f"row {row_id}: {rejected.detail or rejected.code}")
        self.rejected = rejected


def list_rows(lines: Sequence[str]) -> str:
    """Return lines about rows as the end of an error: the first 200, indented, and the number of the others."""
    shown = [*lines[:ROWS_NAMED], *([f"and {len(lines) - ROWS_NAMED} more"] if len(lines) > ROWS_NAMED else [])]
    return "".join(f"\n  {line}" for line in shown)


class TemporaryFailure(RuntimeError):
    """A call failed after all retries and may work later; the row is reported and tried by the next run."""


class ServerUnreachable(RuntimeError):
    """The server does not answer; the stage aborts, and the next run resumes it."""
