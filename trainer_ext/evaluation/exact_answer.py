"""Exact answers: the answer ends in the reference's words."""

import re
import unicodedata

import datasets
import evaluate

UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"  # Thai, Japanese and Chinese characters
NUMBER = r"(?<![\w.,])-?\d+(?:[.,:]\d+)*(?![^\W_])"
# A number with its sign and decimals; a character of a script without spaces; a word with its inner apostrophes.
WORD = re.compile(rf"{NUMBER}|[{UNSPACED}]|[^\W_{UNSPACED}]+(?:['\u2019][^\W_]+)*")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class ExactAnswer(evaluate.Metric):
    """Share of predictions that end in the reference's words, in percent; case and punctuation do not count."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions and references: one string each",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        correct = [
            ends_in(prediction, reference) for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"exact_answer": 100 * sum(correct) / len(correct)}


def ends_in(answer: str, reference: str) -> bool:
    """Tell whether the answer's last words are the reference's."""
    words, wanted = split_words(answer), split_words(reference)
    return bool(wanted) and words[-len(wanted) :] == wanted


def split_words(text: str) -> list[str]:
    """Return lower-case words without punctuation: 3.14 and -5 are one word each, 1,000 is 1000."""
    text = unicodedata.normalize("NFC", text.lower()).replace("\u2212", "-")
    return WORD.findall(THOUSANDS.sub("", text))
