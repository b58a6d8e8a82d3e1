"""Scores of a few held-out questions in the middle of a training, without files."""

from collections.abc import Sequence

from datasets import Dataset
from transformers import PreTrainedModel

from data_builders.outcomes import Rejected
from trainer_ext.evaluation.answering import select_asked
from trainer_ext.evaluation.benchmarks.own_data import make_pairs_benchmark
from trainer_ext.evaluation.evaluators.base import load_evaluator
from trainer_ext.evaluation.held_out import choose_evaluator, select_referenced
from trainer_ext.evaluation.items import Answer, AnsweredItem
from trainer_ext.evaluation.sources.student import StudentSource
from trainer_ext.students.base import StudentFamily

MODALITIES = ("text", "speech")
SPARE_TOKENS = 8  # beyond the longest answer of the teacher


def choose_questions(rows: Dataset, count: int) -> Dataset:
    """Return the first recordings of so many questions with speech and the teacher's answer, spread over the rows."""
    needed = rows.select_columns(["question", "teacher_response", "speech_seconds"])
    first: dict[str, int] = {}
    for i, row in enumerate(needed):
        if row["speech_seconds"] and row["teacher_response"]:
            first.setdefault(row["question"], i)
    usable = list(first.values())
    return rows.select([usable[i * len(usable) // count] for i in range(count)] if len(usable) > count else usable)


def score_questions(
    model: PreTrainedModel, family: StudentFamily, rows: Dataset, evaluator: str | None, batch_size: int
) -> dict[str, float]:
    """Return scores in percent by `<modality>/<evaluator>`; empty for no rows.

    Args:
        rows: of `choose_questions`.
        evaluator: a name of EVALUATORS; None chooses by the rows.
    """
    if not len(rows):
        return {}
    name = choose_evaluator(evaluator, rows)
    if load_evaluator(name).needs_reference:
        rows = select_referenced(rows, name)
    longest = max(len(family.encode_response(text)) for text in rows["teacher_response"])
    loaded = make_pairs_benchmark(rows, "held out", name, longest + SPARE_TOKENS)
    source = StudentSource("student", family, lambda: model.eval(), dict, batch_size=batch_size)
    scores = {}
    for modality in MODALITIES:
        asked = select_asked(loaded, modality)
        answered: list[AnsweredItem] = []
        for batch in source.cut(asked, modality):
            found = source.answer([asked[i] for i in batch], modality, loaded.benchmark.max_new_tokens)
            pairs: Sequence[tuple[int, object]] = list(zip(batch, found, strict=True))
            answered += [AnsweredItem(asked[i].item, modality, a) for i, a in pairs if isinstance(a, Answer)]
        points = load_evaluator(name).evaluate(answered)
        shares = [score.share for score in points if not isinstance(score, Rejected)]
        scores[f"{modality}/{name}"] = 100 * sum(shares) / len(shares)
    return scores
