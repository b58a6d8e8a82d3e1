"""Exact answers: the answer ends in the reference's words."""

import re

import datasets
import evaluate


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
    """Return lower-case words without punctuation."""
    return re.findall(r"[\w']+", text.lower())
