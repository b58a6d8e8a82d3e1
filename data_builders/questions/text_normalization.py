"""The question as it is read out: numbers, dates, sums of money, units and signs as words.

Uses wetext, the text normalizer of CosyVoice's own front end; its finite-state rules come with the package.
"""

import functools
import re

# Signs that wetext keeps and TTS engines mispronounce.
SIGNS = {"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": ", ", "\u00a0": " "}
LANGUAGES = ("en", "zh", "ja")  # of wetext
ONE_THOUSAND = re.compile(r"(?<![\d.,])1,?\d{3}(?!\d)")
NUMBER_WORDS = (
    "a one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred"
)
THOUSAND_ALONE = re.compile("".join(rf"(?<!\b{word} )" for word in NUMBER_WORDS.split()) + r"\bthousand\b")
LETTERS_PER_SECOND = 14.0  # espeak-ng at 170 words per minute, and unhurried people


@functools.cache
def load_normalizer(language: str):
    """Load wetext's rules of a language; takes a fifth of a second."""
    from wetext import Normalizer

    return Normalizer(lang=language, operator="tn")


def normalize_for_tts(text: str, language: str = "en") -> str:
    """Return `text` as it is read out; in a language without rules, numbers are left to the TTS engine."""
    for sign, plain in SIGNS.items():
        text = text.replace(sign, plain)
    text = " ".join(text.split())
    if language not in LANGUAGES:
        return text
    # Plain words need no normalization, and most questions are plain words.
    if re.search(r"[^A-Za-z' ,?!.\-]|\b[A-Z][a-z]*\.", text):
        try:
            spoken = load_normalizer(language).normalize(text).replace('\\"', '"')
        except (AssertionError, IndexError, KeyError, ValueError):  # its parser fails on "[1]" and "+1"
            return text
        # wetext reads "1,234.56" as "thousand two hundred and thirty four ...".
        text = THOUSAND_ALONE.sub("one thousand", spoken) if language == "en" and ONE_THOUSAND.search(text) else spoken
    return " ".join(text.split())


def estimate_seconds(spoken_text: str) -> float:
    """Estimate the length of the speech of a text, in seconds."""
    return max(0.5, len(spoken_text) / LETTERS_PER_SECOND)
