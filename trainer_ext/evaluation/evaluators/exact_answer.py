"""Exact answers: the answer ends in the reference's words."""

import re
import unicodedata
from typing import ClassVar

from trainer_ext.evaluation.evaluators.base import ItemEvaluator, require_reference
from trainer_ext.evaluation.items import AnsweredItem, ItemScore, one_part

UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"  # Thai, Japanese and Chinese characters
NUMBER = r"(?<![\w.,])-?\d+(?:[.,:]\d+)*(?![^\W_])"
# A number with its sign and decimals; a character of a script without spaces; a word with its inner apostrophes.
WORD = re.compile(rf"{NUMBER}|[{UNSPACED}]|[^\W_{UNSPACED}]+(?:['\u2019][^\W_]+)*")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class ExactAnswer(ItemEvaluator):
    """A point for an answer that ends in the reference's words; case and punctuation do not count."""

    needs_reference: ClassVar[bool] = True

    def score(self, entry: AnsweredItem) -> ItemScore:
        return one_part(ends_in(entry.answer.text, require_reference(entry)))


def ends_in(answer: str, reference: str) -> bool:
    """Tell whether the answer's last words are the reference's."""
    words, wanted = split_words(answer), split_words(reference)
    return bool(wanted) and words[-len(wanted) :] == wanted


def split_words(text: str) -> list[str]:
    """Return lower-case words without punctuation: 3.14 and -5 are one word each, 1,000 is 1000."""
    text = unicodedata.normalize("NFC", text.lower()).replace("\u2212", "-")
    return WORD.findall(THOUSANDS.sub("", text))
