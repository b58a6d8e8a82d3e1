"""The second stage: answers -> scores, one line per answer in a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_builders.outcomes import Rejected, ServerUnreachable, TemporaryFailure
from data_builders.storage.atomic import write_atomic
from trainer_ext.evaluation.evaluators.base import Evaluator, EvaluatorSettings, load_evaluator
from trainer_ext.evaluation.items import REFUSED, AnsweredItem, ItemScore

SCORED_CHARACTERS = 20_000  # of an answer; five times the longest that recipes generate


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


def score_cells(answers: Answers, evaluators: Mapping[str, str], settings: EvaluatorSettings) -> Results:
    """Return the scored answers of every cell; an evaluator that lacks something scores nothing.

    Args:
        evaluators: benchmark -> name of its evaluator.
    """
    results: Results = {}
    for cell, answered in answers.items():
        evaluator = load_evaluator(evaluators[cell.benchmark], settings)
        if missing := evaluator.missing():
            scores: Sequence[ItemScore | Rejected] = [Rejected("scores", "not_scored", missing)] * len(answered)
        else:
            scores = score_answers(evaluator, answered)
        results[cell] = [Scored(*pair) for pair in zip(answered, scores, strict=True)]
    return results


def score_answers(evaluator: Evaluator, answered: Sequence[AnsweredItem]) -> list[ItemScore | Rejected]:
    """Return a score per answer; a question that the model could not be asked has no points."""
    given = [shorten(entry) for entry in answered if entry.answer.finish_reason != REFUSED]
    scores = iter(evaluate_apart(evaluator, given))
    return [score_refused(evaluator, e) if e.answer.finish_reason == REFUSED else next(scores) for e in answered]


def shorten(entry: AnsweredItem) -> AnsweredItem:
    """Return an answer without what follows SCORED_CHARACTERS: some evaluators take the square of its length."""
    if len(entry.answer.text) <= SCORED_CHARACTERS:
        return entry
    return entry._replace(answer=replace(entry.answer, text=entry.answer.text[:SCORED_CHARACTERS]))


def evaluate_apart(evaluator: Evaluator, given: Sequence[AnsweredItem]) -> list[ItemScore | Rejected]:
    """Return a score per answer; one that the evaluator cannot take is left out, and costs no other its score.

    Raises:
        any error of an evaluator that can take none of them.
    """
    try:
        return list(evaluator.evaluate(given))
    except (ServerUnreachable, TemporaryFailure):
        raise
    except Exception:  # an evaluator's library, on an answer that nobody has tried
        scores = [evaluate_one(evaluator, entry) for entry in given]
        if all(isinstance(score, Rejected) for score in scores):
            raise
        return scores


def evaluate_one(evaluator: Evaluator, entry: AnsweredItem) -> ItemScore | Rejected:
    """Return the score of one answer, or the evaluator's error as a rejection."""
    try:
        (score,) = evaluator.evaluate([entry])
    except (ServerUnreachable, TemporaryFailure):
        raise
    except Exception as error:
        return Rejected("scores", "not_scored", repr(error)[:200])
    return score


def score_refused(evaluator: Evaluator, entry: AnsweredItem) -> ItemScore:
    """Return no points of those that an answer could have had."""
    parts: Mapping[str, tuple[float, float]] = {"score": (0.0, 1.0)}
    if not evaluator.needs_judge:
        (empty,) = evaluator.evaluate([entry._replace(answer=replace(entry.answer, text=""))])
        if isinstance(empty, ItemScore):
            parts = empty.parts
    return ItemScore({name: (0.0, possible) for name, (_, possible) in parts.items()}, unreadable=True)


def read_scores(file: Path, answers: Answers) -> Results:
    """Return the scores that were written for these answers.

    Raises:
        ValueError: there are none; they have to be made first.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not there; run the stage `scores` first")
    lines = {}
    for number, text in enumerate(file.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            line = json.loads(text)
            lines[Cell(**{name: line[name] for name in Cell._fields}), line["id"]] = read_score(line)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file}, line {number} is no score ({error!r}): run the stage `scores` again") from error
    results: Results = {}
    for cell, answered in answers.items():
        results[cell] = []
        for entry in answered:
            score = lines.get((cell, entry.item.id))
            if score is None:
                raise ValueError(f"{file} has no score of {entry.item.id} in {cell}; run the stage `scores` again")
            results[cell].append(Scored(entry, score))
    return results


def read_score(line: Mapping[str, Any]) -> ItemScore | Rejected:
    """Return the score of a line of `write_scores`."""
    if "rejected" in line:
        return Rejected("scores", line["code"], line["rejected"])
    parts = {name: (points, possible) for name, (points, possible) in line["parts"].items()}
    return ItemScore(parts, line["read_as"], line["unreadable"], line["guessed"])


def write_scores(file: Path, results: Results) -> None:
    """Write one JSON line per answer."""
    lines = []
    for cell, scored in results.items():
        for entry in scored:
            item, score = entry.answered.item, entry.score
            given = {"code": score.code, "rejected": score.detail} if isinstance(score, Rejected) else asdict(score)
            lines.append({**cell._asdict(), "id": item.id, "group": item.group, **given})
    write_atomic(file, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())
