"""Agreement with an answer in other words: the F1 score of shared words, as SQuAD counts it.

Compares with the reference or, where there is none, with the teacher's own answer.
"""

from collections import Counter
from typing import ClassVar

from trainer_ext.evaluation.evaluators.base import ItemEvaluator
from trainer_ext.evaluation.evaluators.exact_answer import split_words
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part


class WordOverlap(ItemEvaluator):
    """2 * shared words / words of both, where a word counts as often as it occurs."""

    needs_reference: ClassVar[bool] = False

    def score(self, entry: AnsweredItem) -> ItemScore:
        return one_part(word_f1(entry.answer.text, find_wanted(entry)))


def find_wanted(entry: AnsweredItem) -> str:
    """Return the answer to compare with.

    Raises:
        ValueError: there is none.
    """
    wanted = entry.item.reference or entry.item.details.get("teacher_response")
    if not wanted:
        raise ValueError(f"{entry.item.benchmark}: item {entry.item.id} has neither a reference nor a teacher's answer")
    return str(wanted)


def word_f1(answer: str, wanted: str) -> float:
    """Return the F1 score of two texts' words; 1 for two empty ones."""
    words, others = Counter(split_words(answer)), Counter(split_words(wanted))
    total = words.total() + others.total()
    return 2 * (words & others).total() / total if total else 1.0
