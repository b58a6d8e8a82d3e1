"""Word error rate against the reference, as points for right words (transcription tasks)."""

from typing import ClassVar

from trainer_ext.evaluation.evaluators.base import ItemEvaluator, require_reference
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part


class WordErrorRate(ItemEvaluator):
    """One minus the word error rate, not below zero, by jiwer on Whisper-normalized text."""

    needs_reference: ClassVar[bool] = True

    def missing(self) -> str | None:
        try:
            import jiwer  # noqa: F401
            import whisper_normalizer  # noqa: F401
        except ImportError:
            return 'jiwer and whisper-normalizer: pip install -e ".[data]"'
        return None

    def score(self, entry: AnsweredItem) -> ItemScore:
        from data_builders.speech.wer import compare_words, load_normalizer

        normalize = load_normalizer()
        wrong = compare_words(normalize(entry.answer.text), normalize(require_reference(entry)))
        return one_part(max(0.0, 1.0 - wrong))
