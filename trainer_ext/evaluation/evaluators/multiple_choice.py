"""Multiple choice: the letter that an answer names (VoiceBench's mmsu and openbookqa)."""

import re
from typing import ClassVar

from trainer_ext.evaluation.evaluators.base import ItemEvaluator, require_reference
from trainer_ext.evaluation.evaluators.phrases import CHOICE, guess, read_phrases, strip_answer_number
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part

LETTERS = "ABCD"
# Spoken questions ended in this list, and an early model answered the one about the scorpion so.
LAST_PHRASES = (
    "would be a.",
    'would be "a.',
    "the best option from the given choices would be a scorpion (a)",
)
# In strict reading, a statement of the answer counts before a letter that merely occurs.
STATED = re.compile(
    r"(?i:(?:answer|choice|option|correct one)\s*(?:is|:|would be)\s*(?:option\s*)?)[*(\"'\s]*([A-D])\b(?!['\u2019])"
)
NAMED = re.compile(r"(?:^|[\s(*\"'])(?:option\s+)?([A-D])(?=$|[).,:*\"']|\s*$)|\(([A-Da-d])\)|\b[Oo]ption ([A-Da-d])\b")


class MultipleChoice(ItemEvaluator):
    """A point for the right letter."""

    needs_reference: ClassVar[bool] = True

    def score(self, entry: AnsweredItem) -> ItemScore:
        reference = require_reference(entry)
        official = self.settings.protocol == "voicebench"
        letter = read_officially(entry.answer.text) if official else read_strictly(entry.answer.text)
        if letter is None and official:
            drawn = guess(LETTERS, self.settings.seed, entry.item.id)
            return one_part(drawn == reference, read_as=drawn, unreadable=True, guessed=True)
        return one_part(letter == reference, read_as=letter or "", unreadable=letter is None)


def read_officially(text: str) -> str | None:
    """Return the letter that VoiceBench's code finds; None for none."""
    text = strip_answer_number(text.lower())
    for phrase in read_phrases("multiple_choice"):
        for letter in LETTERS:
            if phrase.replace(CHOICE, letter.lower()) in text:
                return letter
    for letter in LETTERS:
        if text == letter.lower() or text.startswith(tuple(letter.lower() + sign for sign in ".,:)")):
            return letter
    return "A" if any(phrase in text for phrase in LAST_PHRASES) else None


def read_strictly(text: str) -> str | None:
    """Return the letter of the last stated answer, or the only letter named; None for none or several."""
    if stated := STATED.findall(text):
        return stated[-1]
    named = {"".join(found).upper() for found in NAMED.findall(text)}
    return named.pop() if len(named) == 1 else None
