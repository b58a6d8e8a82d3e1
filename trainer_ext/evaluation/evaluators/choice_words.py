"""The words of the right choice, and none that only wrong choices have (MMAU and MMAR)."""

import re
from collections.abc import Sequence
from typing import ClassVar

from trainer_ext.evaluation.evaluators.base import ItemEvaluator, require_reference
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part

WORD = re.compile(r"\b\w+\b")


class ChoiceWords(ItemEvaluator):
    """A point for an answer with every word of the right choice and no word that only wrong choices have."""

    needs_reference: ClassVar[bool] = True

    def score(self, entry: AnsweredItem) -> ItemScore:
        text = entry.answer.text
        names = names_choice(text, require_reference(entry), entry.item.choices)
        return one_part(names, unreadable=not split_words(text))


def names_choice(answer: str, right: str, choices: Sequence[str]) -> bool:
    """Tell whether an answer names the right choice and no other."""
    words, wanted = split_words(answer), split_words(right)
    wrong = {word for choice in choices if split_words(choice) != wanted for word in split_words(choice)} - wanted
    return bool(words) and wanted <= words and not words & wrong


def split_words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))
