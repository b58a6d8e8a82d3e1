"""How right answers are, and the two illnesses measured by it.

    gap        = text score - speech score        of the student
    forgetting = text score of the teacher - text score of the student

Scores are percentages. An evaluator is an `evaluate.Metric`; a new one is one class and one line in `EVALUATORS`.
"""

import importlib
import re
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import evaluate

from data_builders.schema import CHANNELS
from trainer_ext.evaluation.answers import answer_rows

EVALUATORS = {"exact_answer": "trainer_ext.evaluation.scores:ExactAnswer"}
NEEDED_COLUMNS = ("source", "reference", "teacher_response", "speech", "speech_seconds")
ALL = "all"  # the line of a report that counts every source


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
        right = [
            ends_in(prediction, reference)
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"exact_answer": 100 * sum(right) / len(right)}


def ends_in(answer: str, reference: str) -> bool:
    """Whether the answer's last words are the reference's."""
    words, wanted = split_words(answer), split_words(reference)
    return bool(wanted) and words[-len(wanted) :] == wanted


def split_words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def load_evaluator(name: str) -> evaluate.Metric:
    """The evaluator of that name."""
    module, _, attribute = EVALUATORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)(keep_in_memory=True)


@dataclass
class Scores:
    """One line of the report, in percent."""

    teacher_text: float
    text: float
    speech: float
    gap: float
    forgetting: float


def select_scorable(dataset: datasets.Dataset | None) -> datasets.Dataset | None:
    """The rows with speech, a reference answer and the teacher's own; None when there are none."""
    if dataset is None or not set(NEEDED_COLUMNS) <= set(dataset.column_names):
        return None
    needed = dataset.select_columns(["reference", "teacher_response", "speech_seconds"])
    rows = [i for i, row in enumerate(needed) if all(row.values())]
    return dataset.select(rows) if rows else None


def score_student(
    model: Any, family: Any, dataset: datasets.Dataset, max_new_tokens: int, batch_size: int = 32
) -> dict[str, Scores]:
    """Scores of every source and of all rows: each question once in writing, and in every voice it has.

    Args:
        dataset: test rows that `select_scorable` let through.
    """
    evaluator = load_evaluator("exact_answer")
    first_takes = list(
        {key: i for i, key in reversed(list(enumerate(question_keys(dataset))))}.values()
    )
    written = dataset.select(sorted(first_takes))
    answers = {
        "t2t": (written, answer_rows(model, family, written, "t2t", max_new_tokens, batch_size)),
        "s2t": (dataset, answer_rows(model, family, dataset, "s2t", max_new_tokens, batch_size)),
    }
    sources = sorted(set(dataset["source"]))
    scores = {}
    for source in [*sources, ALL]:
        teacher = score_source(evaluator, written, written["teacher_response"], source)
        text, speech = (score_source(evaluator, *answers[channel], source) for channel in CHANNELS)
        scores[source] = Scores(teacher, text, speech, gap=text - speech, forgetting=teacher - text)
    return scores


def question_keys(dataset: datasets.Dataset) -> list[tuple[str, str]]:
    """What identifies a question, whoever speaks it."""
    return list(zip(dataset["source"], dataset["question"], strict=True))


def score_source(
    evaluator: evaluate.Metric, dataset: datasets.Dataset, answers: list[str], source: str
) -> float:
    """The evaluator's figure for the rows of one source, or of all."""
    chosen = [i for i, named in enumerate(dataset["source"]) if source in (ALL, named)]
    references = dataset["reference"]
    result = evaluator.compute(
        predictions=[answers[i] for i in chosen], references=[references[i] for i in chosen]
    )
    return float(result["exact_answer"])


def scores_to_dict(scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    """Scores as JSON takes them."""
    return {source: asdict(line) for source, line in scores.items()}
