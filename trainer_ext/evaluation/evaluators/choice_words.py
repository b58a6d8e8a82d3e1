"""The words of the right choice, and none that only wrong choices have (MMAU and MMAR)."""

import re
from collections.abc import Sequence
from typing import ClassVar

from data_builders.outcomes import Rejected
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings, require_reference
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part

WORD = re.compile(r"\b\w+\b")


class ChoiceWords:
    """A point for an answer with every word of the right choice and no word that only wrong choices have."""

    needs_reference: ClassVar[bool] = True
    needs_judge: ClassVar[bool] = False

    def __init__(self, settings: EvaluatorSettings) -> None:
        pass

    def missing(self) -> str | None:
        return None

    def evaluate(self, answered: Sequence[AnsweredItem]) -> list[ItemScore | Rejected]:
        return [
            one_part(names_choice(entry.answer.text, require_reference(entry), entry.item.choices),
                     unreadable=not split_words(entry.answer.text))
            for entry in answered
        ]  # fmt: skip


def names_choice(answer: str, right: str, choices: Sequence[str]) -> bool:
    """Tell whether an answer names the right choice and no other."""
    words, wanted = split_words(answer), split_words(right)
    wrong = {word for choice in choices if split_words(choice) != wanted for word in split_words(choice)} - wanted
    return bool(words) and wanted <= words and not words & wrong


def split_words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))
