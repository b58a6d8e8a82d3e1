"""The outcome of work on a row, as a type instead of a message."""

from dataclasses import dataclass


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


class TemporaryFailure(RuntimeError):
    """A call failed after all retries and may work later; the row is reported and tried by the next run."""


class ServerUnreachable(RuntimeError):
    """The server does not answer; the stage aborts, and the next run resumes it."""
