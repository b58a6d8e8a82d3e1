"""Health of answers, which needs no reference: tuned speech LLMs are known to babble, repeat and change language."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainer_ext.evaluation.items import REFUSED, STOP, AnsweredItem

NGRAM = 4  # words


@dataclass(frozen=True)
class Health:
    """Shares are of the answers, in percent.

    Attributes:
        ended: by themselves, before the limit.
        refused: questions that the model could not be asked.
        words: mean length.
        repeated: mean share of 4-grams that occurred earlier in the same answer.
        empty: without a word.
        other_script: mostly in another script than their question.
    """

    ended: float
    refused: float
    words: float
    repeated: float
    empty: float
    other_script: float


def measure_health(answered: Sequence[AnsweredItem]) -> Health:
    """Return the health of answers; zeros for none."""
    asked = [entry for entry in answered if entry.answer.finish_reason != REFUSED]
    texts = [entry.answer.text for entry in asked]
    scripts = [
        (find_script(entry.answer.text), find_script(entry.item.question)) for entry in asked if entry.item.question
    ]
    return Health(
        ended=percent([entry.answer.finish_reason == STOP for entry in asked]),
        refused=percent([entry.answer.finish_reason == REFUSED for entry in answered]),
        words=round(sum(len(text.split()) for text in texts) / max(len(texts), 1), 2),
        repeated=percent([repeated_share(text) for text in texts]),
        empty=percent([not text.strip() for text in texts]),
        other_script=percent([bool(script) and bool(wanted) and script != wanted for script, wanted in scripts]),
    )


def percent(shares: Sequence[float]) -> float:
    """Return the mean of shares in percent; 0 for none."""
    return round(100 * sum(shares) / len(shares), 2) if shares else 0.0


def repeated_share(text: str) -> float:
    """Return the share of a text's 4-grams of words that occurred before in it."""
    words = text.lower().split()
    grams = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def find_script(text: str) -> str:
    """Return the script of most letters, as the first word of their Unicode names; empty without letters."""
    letters = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha())
    return letters.most_common(1)[0][0] if letters else ""
