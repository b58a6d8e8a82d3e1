"""Word error rate after Whisper's normalization, as the field reports it; offline.

`evaluate.load("wer")` fetches its code from the Hub and counts punctuation and "two" against "2" as errors.
"""

import functools
from typing import Any

import datasets
import evaluate
import jiwer


@functools.cache
def load_normalizer() -> Any:
    """Whisper's English normalizer with its table of British spellings (package whisper-normalizer)."""
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def measure_wer(heard: str, said: str) -> float:
    """Errors a word of `said`; above 1 where more was heard than said. Nothing said and nothing heard is right.

    >>> measure_wer("2 grey cats!", "Two gray cats?")
    0.0
    """
    return compare_words(load_normalizer()(heard), load_normalizer()(said))


def compare_words(heard: str, said: str) -> float:
    """As `measure_wer`, of texts that are normalized already."""
    return float(jiwer.wer(said, heard)) if said else float(bool(heard))


class WordErrorRate(evaluate.Metric):
    """Errors (substituted, left out, added) over words said, after Whisper's normalization; the mean of all words."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions: what was heard; references: what was said",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        normalize = load_normalizer()
        said = [normalize(text) for text in references]
        heard = [normalize(text) for text in predictions]
        return {"wer": float(jiwer.wer(said, heard))}
