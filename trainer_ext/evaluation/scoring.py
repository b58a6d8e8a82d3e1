"""The second stage: answers -> scores, one line per answer in a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from data_builders.outcomes import Rejected
from data_builders.storage.atomic import write_atomic
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings, load_evaluator
from trainer_ext.evaluation.items import AnsweredItem, ItemScore


class Cell(NamedTuple):
    """One place of a report: what was asked, of whom, and how.

    Attributes:
        condition: "" for the recordings as they are, or what was done to them ("noise 10 dB").
    """

    benchmark: str
    model: str
    modality: str
    condition: str = ""


class Scored(NamedTuple):
    """An answer with its score, or the reason why it has none."""

    answered: AnsweredItem
    score: ItemScore | Rejected


Answers = Mapping[Cell, Sequence[AnsweredItem]]
Results = dict[Cell, list[Scored]]


def score_cells(
    answers: Answers, evaluators: Mapping[str, str], settings: EvaluatorSettings
) -> tuple[Results, dict[str, str]]:
    """Return the scored answers of every cell, and what is not scored: benchmark -> what its evaluator lacks.

    Args:
        evaluators: benchmark -> name of its evaluator.
    """
    results: Results = {}
    not_scored: dict[str, str] = {}
    for cell, answered in answers.items():
        evaluator = load_evaluator(evaluators[cell.benchmark], settings)
        if missing := evaluator.missing():
            not_scored[cell.benchmark] = missing
            scores: Sequence[ItemScore | Rejected] = [Rejected("scores", "not_scored", missing)] * len(answered)
        else:
            scores = evaluator.evaluate(answered)
        results[cell] = [Scored(*pair) for pair in zip(answered, scores, strict=True)]
    return results, not_scored


def write_scores(file: Path, results: Results) -> None:
    """Write one JSON line per answer."""
    lines = []
    for cell, scored in results.items():
        for entry in scored:
            item, score = entry.answered.item, entry.score
            given = {"rejected": score.detail} if isinstance(score, Rejected) else asdict(score)
            lines.append({**cell._asdict(), "id": item.id, "group": item.group, **given})
    write_atomic(file, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())
