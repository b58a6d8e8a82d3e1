"""Word error rate against the reference, as points for right words (transcription tasks)."""

from collections.abc import Sequence
from typing import ClassVar

from data_builders.outcomes import Rejected
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings, require_reference
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part


class WordErrorRate:
    """One minus the word error rate, not below zero, by jiwer on Whisper-normalized text."""

    needs_reference: ClassVar[bool] = True
    needs_judge: ClassVar[bool] = False

    def __init__(self, settings: EvaluatorSettings) -> None:
        pass

    def missing(self) -> str | None:
        try:
            import jiwer  # noqa: F401
            import whisper_normalizer  # noqa: F401
        except ImportError:
            return 'jiwer and whisper-normalizer: pip install -e ".[data]"'
        return None

    def evaluate(self, answered: Sequence[AnsweredItem]) -> list[ItemScore | Rejected]:
        from data_builders.speech.wer import compare_words, load_normalizer

        normalize = load_normalizer()
        return [
            one_part(max(0.0, 1.0 - compare_words(normalize(entry.answer.text), normalize(require_reference(entry)))))
            for entry in answered
        ]
