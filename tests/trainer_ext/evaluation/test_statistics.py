"""Tests of bootstrap intervals."""

import numpy as np
import pytest

from trainer_ext.evaluation.items import ItemScore, one_part
from trainer_ext.evaluation.statistics import Totals, estimate_difference, estimate_score
from trainer_ext.evaluation.summary import round_estimate


def totals(points, possible=None):
    points = np.atleast_2d(np.asarray(points, dtype=float))
    return Totals([str(i) for i in range(len(points))], points, np.ones_like(points) if possible is None else possible)


def simulate(rng, questions=150, recordings=3):
    """Return totals of text and speech, and their true difference; a question's recordings share its difficulty."""
    difficulty = rng.random(questions)
    text = difficulty < 0.8
    speech = (difficulty[:, None] < 0.6) | (rng.random((questions, recordings)) < 0.1)
    spoken = totals(speech.sum(axis=1), np.full((1, questions), float(recordings)))
    return totals(text), spoken, 100 * (0.8 - (0.6 + 0.4 * 0.1))


def coverage(tries):
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(tries):
        text, speech, true = simulate(rng)
        estimate = estimate_difference(text, speech, seed=seed)
        hits += estimate.low <= true <= estimate.high
    return hits / tries


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """Prevents: an interval from unpaired draws, or with recordings of one question as independent evidence."""
    assert 0.90 < coverage(150) < 0.985


@pytest.mark.slow
def test_the_interval_holds_the_truth_in_93_to_97_of_100_simulations():
    """Prevents: as above, to the width that a reviewer would check."""
    assert 0.93 <= coverage(2000) <= 0.97


def test_equal_models_differ_by_nothing():
    """Prevents: an interval of two independent draws around a difference of zero."""
    text, _, _ = simulate(np.random.default_rng(1))
    assert estimate_difference(text, text)[:3] == (0, 0, 0)


def test_a_paired_interval_is_narrower_than_two_scores_own():
    """Prevents: a comparison that ignores that both models were asked the same questions."""
    rng = np.random.default_rng(2)
    base = rng.random(300) < 0.6
    new = base | (rng.random(300) < 0.1)
    change = estimate_difference(totals(new), totals(base))
    own = estimate_score(totals(new))
    assert change.low > 0
    assert change.high - change.low < own.high - own.low


def test_parts_are_shares_of_their_own_totals():
    """Prevents: an item with ten instructions that counts as one with a single instruction."""
    scores = [
        ItemScore({"prompt": (1, 1), "instruction": (3, 3)}),
        ItemScore({"prompt": (0, 1), "instruction": (0, 1)}),
    ]
    both = Totals.from_scores(["a", "b"], [("a", scores[0]), ("b", scores[1])])
    assert estimate_score(both).value == pytest.approx(100 * (1 / 2 + 3 / 4) / 2)


def test_one_question_or_none_has_no_interval():
    """Prevents: an error at the end of a small evaluation, or an interval from nothing."""
    one = Totals.from_scores(["a"], [("a", one_part(1))])
    assert estimate_score(one) == (100, 100, 100, 1)
    assert np.isnan(estimate_score(Totals.from_scores([], [])).value)


def test_recordings_of_a_question_are_drawn_together():
    """Prevents: three voices of one question as three independent observations: an interval too narrow by 1.7."""
    scores = [(f"q{n}", one_part(n % 2)) for n in range(60)]
    questions = [f"q{n}" for n in range(60)]
    once = estimate_score(Totals.from_scores(questions, scores))
    thrice = estimate_score(Totals.from_scores(questions, scores * 3))
    assert once == thrice


def test_a_question_without_possible_points_says_nothing():
    """Prevents: an interval of NaN, which is no JSON, because some rows could not be encoded."""
    estimate = estimate_score(totals([1, 0, 0], np.array([[10.0, 0, 0]])), scale=1.0)
    assert estimate == (0.1, 0.1, 0.1, 1)
    assert round_estimate(estimate_score(totals([0], np.array([[0.0]])))) == {"questions": 0}
