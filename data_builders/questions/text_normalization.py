"""The question as it is read out: numbers, dates, sums of money, units and signs as words.

By wetext, the text normalizer of CosyVoice's own front end; its rules (finite-state transducers) are in the package.
"""

import functools
import re

# What wetext leaves as it is, and voices stumble over.
SIGNS = {"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": ", ", "\u00a0": " "}
LETTERS_A_SECOND = 14.0  # of espeak-ng at 170 words a minute, and of unhurried people


@functools.cache
def load_normalizer():
    """wetext's English rules; a fifth of a second."""
    from wetext import Normalizer

    return Normalizer(lang="en", operator="tn")


def normalize_for_tts(text: str) -> str:
    """`text` as it is read out."""
    for sign, plain in SIGNS.items():
        text = text.replace(sign, plain)
    text = " ".join(text.split())
    # Otherwise there is nothing to spell out.
    if re.search(r"[^A-Za-z' ,?!.\-]|\b[A-Z][a-z]*\.", text):
        text = load_normalizer().normalize(text).replace('\\"', '"')
    return " ".join(text.split())


def estimate_seconds(spoken: str) -> float:
    """How long it will take to say; speech itself is not needed to plan for it."""
    return max(0.5, len(spoken) / LETTERS_A_SECOND)
