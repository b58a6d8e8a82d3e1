"""Scores of a student, in percent, and the two deficits that they show.

gap        = text score - speech score        of the student
forgetting = text score of the teacher - text score of the student
"""

from dataclasses import asdict, dataclass

import datasets
from transformers import PreTrainedModel

from data_builders.schema import CHANNELS
from trainer_ext.evaluation.answers import answer_rows
from trainer_ext.evaluation.evaluators import load_evaluator
from trainer_ext.students.base import StudentEncoder

SCORED_COLUMNS = ("source", "reference", "teacher_response", "speech", "speech_seconds")
ALL_SOURCES = "all"  # the line of a report over every source


@dataclass
class Scores:
    """One line of the report, in percent."""

    teacher_text: float
    text: float
    speech: float
    gap: float
    forgetting: float


def select_scorable(dataset: datasets.Dataset | None) -> datasets.Dataset | None:
    """Return the rows with speech, a reference answer and the teacher's own; None if there are none."""
    if dataset is None or not set(SCORED_COLUMNS) <= set(dataset.column_names):
        return None
    needed = dataset.select_columns(["reference", "teacher_response", "speech_seconds"])
    rows = [i for i, row in enumerate(needed) if all(row.values())]
    return dataset.select(rows) if rows else None


def score_student(
    model: PreTrainedModel,
    student: StudentEncoder,
    dataset: datasets.Dataset,
    max_new_tokens: int,
    batch_size: int = 32,
    evaluator: str = "exact_answer",
) -> dict[str, Scores]:
    """Return the scores of every source and of all rows: each question once in writing, and in every voice it has.

    Args:
        dataset: test rows of `select_scorable`.
        evaluator: a key of EVALUATORS.
    """
    questions = list(zip(dataset["source"], dataset["question"], strict=True))
    first_recordings = {key: i for i, key in reversed(list(enumerate(questions)))}
    written = dataset.select(sorted(first_recordings.values()))
    answers = {
        "t2t": (written, answer_rows(model, student, written, "t2t", max_new_tokens, batch_size)),
        "s2t": (dataset, answer_rows(model, student, dataset, "s2t", max_new_tokens, batch_size)),
    }
    metric = load_evaluator(evaluator)

    def score(rows: datasets.Dataset, answers: list[str], source: str) -> float:
        """Return the score over the rows of one source, or of all."""
        chosen = [i for i, name in enumerate(rows["source"]) if source in (ALL_SOURCES, name)]
        references = rows["reference"]
        result = metric.compute(predictions=[answers[i] for i in chosen], references=[references[i] for i in chosen])
        return float(result[evaluator])

    sources = sorted(set(dataset["source"]))
    scores = {}
    for source in [*sources, ALL_SOURCES]:
        teacher = score(written, written["teacher_response"], source)
        text, speech = (score(*answers[channel], source) for channel in CHANNELS)
        scores[source] = Scores(teacher, text, speech, gap=text - speech, forgetting=teacher - text)
    return scores


def scores_to_dict(scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    """Convert scores for JSON."""
    return {source: asdict(line) for source, line in scores.items()}
