"""Scores and differences with bootstrap intervals: questions are drawn, with everything that was asked of each.

A score is the mean over parts of sum(points) / sum(possible points). Recordings of one question, and its two modalities
and two models, are drawn together: differences are paired, and voices of one question are no independent evidence.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import bootstrap

from trainer_ext.evaluation.items import ItemScore

RESAMPLES = 2_000
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A value with its interval, and the number of questions that it is from.

    The interval of fewer than two questions is the value itself.
    """

    value: float
    low: float
    high: float
    questions: int


class Totals:
    """Points and possible points of questions, by part: arrays (parts, questions)."""

    def __init__(self, names: Sequence[str], points: np.ndarray, possible: np.ndarray) -> None:
        self.names, self.points, self.possible = list(names), points, possible

    @classmethod
    def from_scores(cls, questions: Sequence[str], scores: Sequence[tuple[str, ItemScore]]) -> "Totals":
        """Add up the scores of each question.

        Args:
            questions: the order of the result.
            scores: question -> score of one of its answers.
        """
        names = list(dict.fromkeys(name for _, score in scores for name in score.parts))
        at = {question: column for column, question in enumerate(questions)}
        points, possible = np.zeros((2, len(names), len(questions)))
        for question, score in scores:
            for name, (value, of) in score.parts.items():
                points[names.index(name), at[question]] += value
                possible[names.index(name), at[question]] += of
        return cls(names, points, possible)

    @classmethod
    def from_counts(cls, counts: Iterable[tuple[str, float, float]]) -> "Totals":
        """Add up question, points and possible points of each recording, by question; one part."""
        sums: dict[str, np.ndarray] = {}
        for question, *pair in counts:
            sums[question] = sums.get(question, np.zeros(2)) + pair
        points, possible = np.array(list(sums.values())).reshape(-1, 2).T
        return cls(["all"], points[None], possible[None])


def mean_share(points: np.ndarray, possible: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean over parts of the share of points, summed over questions; arrays (parts, ..., questions)."""
    with np.errstate(invalid="ignore"):
        return (points.sum(axis=axis) / possible.sum(axis=axis)).mean(axis=0)


def estimate_score(totals: Totals, scale: float = 100.0, seed: int = 0) -> Estimate:
    """Return a score, in percent unless scaled otherwise, with its bootstrap interval."""
    return _estimate([totals], lambda shares: shares[0], scale, seed)


def estimate_difference(new: Totals, old: Totals, scale: float = 100.0, seed: int = 0) -> Estimate:
    """Return new - old over the same questions, with its paired bootstrap interval."""
    return _estimate([new, old], lambda shares: shares[0] - shares[1], scale, seed)


def _estimate(totals: Sequence[Totals], combine: Any, scale: float, seed: int) -> Estimate:
    """Draw questions, the same for every member of `totals`."""
    # A question without possible points (a row that could not be encoded) says nothing.
    counted = np.all([entry.possible.sum(axis=0) > 0 for entry in totals], axis=0)
    totals = [Totals(entry.names, entry.points[:, counted], entry.possible[:, counted]) for entry in totals]
    questions = totals[0].points.shape[1]
    if questions == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)

    def statistic(draws: np.ndarray, axis: int = -1) -> np.ndarray:
        columns = draws.astype(int)
        shares = [mean_share(entry.points[:, columns], entry.possible[:, columns]) for entry in totals]
        return scale * combine(shares)

    everything = np.arange(questions)
    value = float(statistic(everything))
    if questions < 2:
        return Estimate(value, value, value, questions)
    drawn = bootstrap(
        (everything,), statistic, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
        vectorized=True, rng=np.random.default_rng(seed), batch=max(1, 2**20 // questions),
    ).confidence_interval  # fmt: skip
    return Estimate(value, float(drawn.low), float(drawn.high), questions)


def common_questions(*scores: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return the questions that all of them have, in the order of the first."""
    first, *others = ([*dict.fromkeys(entry)] for entry in scores)
    kept = set(first).intersection(*others)
    return [question for question in first if question in kept]
