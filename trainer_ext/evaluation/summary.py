"""Scored answers -> the figures of a report: scores, changes against the untouched model, gaps, overall scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from data_builders.outcomes import Rejected
from trainer_ext.evaluation.health import measure_health
from trainer_ext.evaluation.items import ItemScore
from trainer_ext.evaluation.scoring import Cell, Results, Scored
from trainer_ext.evaluation.statistics import (
    Estimate,
    Totals,
    common_questions,
    estimate_difference,
    estimate_score,
)

ALL = "all"  # the group of every item
DIGITS = 4


def summarize(
    results: Results, base: str | None, overall: Mapping[str, Sequence[str]], seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of a report.

    Args:
        base: the model that others are compared with; None for no comparison.
        overall: name -> benchmarks whose mean it is.
    """
    results = spread_written(results)
    return {
        "scores": [line for cell in results for line in describe_cell(cell, results[cell], seed)],
        "differences": list(compare(results, base, seed)),
        "overall": list(average(results, overall, seed)),
    }


def spread_written(results: Results) -> Results:
    """Return results in which a written answer is in every group that has a recording of its question.

    A question is asked once in writing, whatever its recordings: accents, for instance, are groups.
    """
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for cell, scored in results.items():
        for entry in scored:
            item = entry.answered.item
            if cell.modality == "speech" and not cell.condition:
                groups.setdefault((cell.benchmark, item.question_id), {})[item.group] = None
    spread: Results = {}
    for cell, scored in results.items():
        spread[cell] = list(scored)
        if cell.modality == "text":
            spread[cell] = [
                entry._replace(answered=entry.answered._replace(item=replace(entry.answered.item, group=group)))
                for entry in scored
                for group in groups.get(
                    (cell.benchmark, entry.answered.item.question_id), {entry.answered.item.group: None}
                )
            ]
    return spread


def first_of_each(scored: Sequence[Scored]) -> list[Scored]:
    """Return every written answer once, whatever its groups; recordings all."""
    found: dict[tuple[str, str], Scored] = {}
    for entry in scored:
        item = entry.answered.item
        found.setdefault((item.id, item.question_id), entry)
    return list(found.values())


def describe_cell(cell: Cell, scored: Sequence[Scored], seed: int) -> Iterator[dict[str, Any]]:
    """Yield the score of every group, and of all items where there are several, with the answers' health."""
    for group in list_groups(scored):
        inside = select_group(scored, group)
        scores = [entry.score for entry in inside if isinstance(entry.score, ItemScore)]
        line: dict[str, Any] = {**cell._asdict(), "group": group, "answers": len(inside), "scored": len(scores)}
        if scores:
            line |= round_estimate(estimate_score(add_up(inside), seed=seed))
            line["unreadable"] = round(100 * float(np.mean([score.unreadable for score in scores])), 2)
            line["guessed"] = round(100 * float(np.mean([score.guessed for score in scores])), 2)
        yield {**line, "health": asdict(measure_health([entry.answered for entry in inside]))}


def compare(results: Results, base: str | None, seed: int) -> Iterator[dict[str, Any]]:
    """Yield paired differences: a model's text score - speech score, and each model - the base, per modality."""
    for cell, scored in results.items():
        spoken = results.get(cell._replace(modality="speech"))
        if cell.modality == "text" and spoken is not None:
            yield from subtract("gap", cell, scored, spoken, "speech", seed)
        against = results.get(cell._replace(model=base)) if base is not None else None
        if cell.model != base and against is not None:
            yield from subtract("change", cell, scored, against, str(base), seed)


def subtract(
    kind: str, cell: Cell, new: Sequence[Scored], old: Sequence[Scored], against: str, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield new - old for every group over the questions that both have a score for."""
    for group in list_groups(new):
        pair = [select_group(scored, group) for scored in (new, old)]
        questions = common_questions(*([q for q, _ in list_scores(scored)] for scored in pair))
        if questions:
            first, second = (add_up(scored, questions) for scored in pair)
            estimate = estimate_difference(first, second, seed=seed)
            yield {"kind": kind, **cell._asdict(), "against": against, "group": group, **round_estimate(estimate)}


def average(results: Results, overall: Mapping[str, Sequence[str]], seed: int) -> Iterator[dict[str, Any]]:
    """Yield overall scores, where every benchmark of one has a score.

    The interval assumes independent benchmarks: the deviations of their bootstrap intervals add in squares.
    """
    cells = dict.fromkeys((cell.model, cell.modality, cell.condition) for cell in results)
    for name, benchmarks in overall.items():
        for model, modality, condition in cells:
            lines = [results.get(Cell(benchmark, model, modality, condition), []) for benchmark in benchmarks]
            if not all(lines) or not all(any(list_scores(line)) for line in lines):
                continue
            estimates = [estimate_score(add_up(first_of_each(line)), seed=seed) for line in lines]
            value = float(np.mean([estimate.value for estimate in estimates]))
            low = value - float(np.linalg.norm([e.value - e.low for e in estimates])) / len(estimates)
            high = value + float(np.linalg.norm([e.high - e.value for e in estimates])) / len(estimates)
            questions = sum(estimate.questions for estimate in estimates)
            yield {
                "name": name, "model": model, "modality": modality, "condition": condition,
                **round_estimate(Estimate(value, low, high, questions)),
            }  # fmt: skip


def list_groups(scored: Sequence[Scored]) -> list[str]:
    """Return the groups of items, and `all` last; `all` alone where there is one group."""
    groups = list(dict.fromkeys(entry.answered.item.group for entry in scored))
    return [*sorted(groups), ALL] if len(groups) > 1 else [ALL]


def select_group(scored: Sequence[Scored], group: str) -> list[Scored]:
    """Return the answers of one group."""
    if group == ALL:
        return first_of_each(scored)
    return [entry for entry in scored if entry.answered.item.group == group]


def list_scores(scored: Sequence[Scored]) -> list[tuple[str, ItemScore]]:
    """Return question and score of the answers that have one."""
    return [(entry.answered.item.question_id, entry.score) for entry in scored if not isinstance(entry.score, Rejected)]


def add_up(scored: Sequence[Scored], questions: Sequence[str] | None = None) -> Totals:
    """Return the points of questions; of all that have a score, if none are named."""
    scores = list_scores(scored)
    kept = list(dict.fromkeys(question for question, _ in scores)) if questions is None else list(questions)
    known = set(kept)
    return Totals.from_scores(kept, [entry for entry in scores if entry[0] in known])


def round_estimate(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate for JSON; without a value where there is none."""
    if np.isnan(estimate.value):
        return {"questions": 0}
    value, low, high = (round(number, DIGITS) for number in estimate[:3])
    return {"value": value, "low": low, "high": high, "questions": estimate.questions}
