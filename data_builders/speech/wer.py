"""Word error rate after Whisper's text normalization, as the field reports it; offline.

`evaluate.load("wer")` downloads code from the Hub, and counts punctuation and "two" against "2" as errors.
"""

import functools
from collections.abc import Callable

import jiwer


@functools.cache
def load_normalizer(language: str = "en") -> Callable[[str], str]:
    """Load Whisper's normalizer: the English one with its table of British spellings, or that of all others."""
    if language != "en":
        from whisper_normalizer.basic import BasicTextNormalizer

        return BasicTextNormalizer()
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def compare_words(actual: str, expected: str) -> float:
    """Return the word error rate of normalized texts; above 1 where `actual` has more words. Two empty texts give 0."""
    return float(jiwer.wer(expected, actual)) if expected else float(bool(actual))
