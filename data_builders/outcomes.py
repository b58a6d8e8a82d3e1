"""The outcome of work on a row, as a type instead of a message."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rejected:
    """A row that is left out of the data set.

    Attributes:
        stage: questions, answers, speech or verification.
        code: a stable snake_case name; tables count rows by it.
        detail: the measured value or the engine's message; may be empty.
    """

    stage: str
    code: str
    detail: str = ""
