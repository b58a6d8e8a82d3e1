"""Decide on every question: keep it with its spoken text, or reject it with a code."""

from pathlib import Path
from typing import Protocol

from data_builders.arguments import QuestionArguments
from data_builders.outcomes import Rejected
from data_builders.questions.read import SourceQuestion
from data_builders.questions.text_normalization import normalize_for_tts

STAGE = "questions"


class TextCheck(Protocol):
    """A check of questions before anything is made of them, for instance of their length in a student's tokens."""

    @property
    def key(self) -> str:
        """Everything that the decisions depend on."""
        ...

    def find_reason(self, question: str, system: str) -> Rejected | None:
        """Return why a question cannot be used; None for one that can."""
        ...


class QuestionFilter:
    """Rejects questions that cannot be asked aloud, and near duplicates.

    Without `filter_unspeakable`, empty questions and those that occur twice are rejected.

    Args:
        text_check: a further check of every question; None for none.
    """

    def __init__(self, arguments: QuestionArguments, folder: Path, text_check: TextCheck | None = None) -> None:
        self._first_row: dict[str, int] = {}
        self._text_check = text_check
        self._speakability = self._duplicates = None
        if arguments.filter_unspeakable:
            # Their libraries belong to the extra `data`.
            from data_builders.questions.duplicates import NearDuplicates
            from data_builders.questions.speakability import SpeakabilityFilter

            self._speakability = SpeakabilityFilter(arguments.max_words, arguments.max_seconds, arguments.language)
            self._language = arguments.language
            self._database = folder / "seen.sqlite"
            self._duplicates = NearDuplicates(self._database, arguments.near_duplicates)

    def judge(self, row: SourceQuestion, row_id: str, number: int) -> str | Rejected:
        """Return the spoken text of a kept question, or its rejection."""
        question = row["question"]
        if self._text_check is not None and question:
            rejected = self._text_check.find_reason(question, row["system"])
            if rejected is not None:
                return rejected
        if self._speakability is None or self._duplicates is None:
            if not question:
                return Rejected(STAGE, "empty")
            if (first := self._first_row.setdefault(row_id, number)) != number:
                return Rejected(STAGE, "duplicate", f"of row {first}")
            return question
        if code := self._speakability.find_reason(question):
            return Rejected(STAGE, code)
        if earlier := self._duplicates.find(row_id, question):
            return Rejected(STAGE, "near_duplicate", f"of {earlier}")
        return normalize_for_tts(question, self._language)

    def close(self) -> None:
        if self._duplicates is not None:
            self._duplicates.close()
            self._database.unlink()
