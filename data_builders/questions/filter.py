"""Decide on every question: keep it with its spoken text, or reject it with a code."""

from pathlib import Path

from data_builders.arguments import QuestionArguments
from data_builders.outcomes import Rejected
from data_builders.questions.read import SourceQuestion
from data_builders.questions.text_normalization import normalize_for_tts

STAGE = "questions"


class QuestionFilter:
    """Rejects questions that cannot be asked aloud, and near duplicates.

    Without `filter_unspeakable` all questions stay; an empty one, or one that occurs twice, is an error.
    """

    def __init__(self, arguments: QuestionArguments, folder: Path) -> None:
        self._first_row: dict[str, int] = {}
        self._speakability = self._duplicates = None
        if arguments.filter_unspeakable:
            # Their libraries belong to the extra `data`.
            from data_builders.questions.duplicates import NearDuplicates
            from data_builders.questions.speakability import SpeakabilityFilter

            self._speakability = SpeakabilityFilter(arguments.max_words, arguments.max_seconds)
            self._database = folder / "seen.sqlite"
            self._duplicates = NearDuplicates(self._database, arguments.near_duplicates)

    def judge(self, row: SourceQuestion, row_id: str, number: int) -> str | Rejected:
        """Return the spoken text of a kept question, or its rejection.

        Raises:
            ValueError: without the filter, a question is empty or occurs twice; names the row.
        """
        question = row["question"]
        if self._speakability is None or self._duplicates is None:
            if not question:
                raise ValueError(f"row {number}: its question is empty")
            if (first := self._first_row.setdefault(row_id, number)) != number:
                raise ValueError(f"row {number}: the same question as row {first} ({question[:60]!r}); drop one")
            return question
        if code := self._speakability.find_reason(question):
            return Rejected(STAGE, code)
        if earlier := self._duplicates.find(row_id, question):
            return Rejected(STAGE, "near_duplicate", f"of {earlier}")
        return normalize_for_tts(question)

    def close(self) -> None:
        if self._duplicates is not None:
            self._duplicates.close()
            self._database.unlink()
