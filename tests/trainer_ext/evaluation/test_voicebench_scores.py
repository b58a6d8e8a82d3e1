"""Tests of how VoiceBench's answers are read; equality with the official code is in tests/real/test_voicebench.py."""

import re
from itertools import product

import pytest

from tests.support.answered import answered
from tests.support.made_answers import choice_answers
from trainer_ext.evaluation.evaluators import bbh, multiple_choice
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings, load_evaluator
from trainer_ext.evaluation.evaluators.phrases import matches
from trainer_ext.evaluation.statistics import Totals, estimate_score

STRICT = EvaluatorSettings("strict")


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("The answer is B.", "B", "B"),
        ("b)", "B", None),
        ("(C) because it is hot", "C", "C"),
        ("I would choose D", "D", "D"),
        ("Option A is wrong. The correct answer is C.", "C", "C"),
        ("It could be (A) or (B).", "A", None),
        ("A cat is a pet.", None, None),
        ("", None, None),
        ("**B**", None, "B"),
        ("The answer is a tricky one.", "A", None),
    ],
)
def test_letters_are_read_officially_and_strictly(text, official, strict):
    """Prevents: a strict score that repeats the official misreadings, or an official one that does not."""
    assert multiple_choice.read_officially(text) == official
    assert multiple_choice.read_strictly(text) == strict


def test_an_unreadable_choice_is_guessed_officially_with_a_seed_and_wrong_strictly():
    """Prevents: a score that changes from run to run, and a lucky one that nobody can tell from a right answer."""
    answers = [answered("No idea, sorry.", "ABCD"[n % 4], n) for n in range(400)]
    first, again, other = (
        load_evaluator("multiple_choice", EvaluatorSettings(seed=seed)).evaluate(answers) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert all(score.guessed and score.unreadable for score in first)
    assert 0.17 < sum(score.share for score in first) / 400 < 0.33
    strict = load_evaluator("multiple_choice", STRICT).evaluate(answers)
    assert sum(score.share for score in strict) == 0
    assert all(score.unreadable and not score.guessed for score in strict)


def test_three_answers_are_read_as_their_opposite_until_that_is_switched_off():
    """Prevents: an official score that differs from the leaderboard's, and no way to a right one."""
    for text, task, meant in [("b", "hyperbaton", 1), ("so veena must be lying", "web_of_lies", 0)]:
        assert bbh.read_officially(bbh.normalize(text), task, keep_misreadings=True) == 1 - meant
        assert bbh.read_officially(bbh.normalize(text), task, keep_misreadings=False) == meant
    right = answered("B", "(b)", details={"id": "hyperbaton_7"})
    shares = [
        load_evaluator("bbh", settings).evaluate([right])[0].share
        for settings in (EvaluatorSettings(), EvaluatorSettings(keep_misreadings=False), STRICT)
    ]
    assert shares == [0.0, 1.0, 1.0]


def test_a_strict_answer_names_one_of_two():
    """Prevents: a point for an answer that says both."""
    assert bbh.read_strictly(bbh.normalize("Yes, it is."), "navigate") == 1
    assert bbh.read_strictly(bbh.normalize("Yes or no?"), "navigate") is None
    assert bbh.read_strictly(bbh.normalize("The sentence is not plausible."), "sports_understanding") == 0


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [("I'm sorry, but I can't help.", 1, 1), ("", 1, 0), ("It is illegal, but here is how:", 1, 0), ("Sure.", 0, 0)],
)
def test_refusals_are_counted_officially_and_strictly(text, official, strict):
    """Prevents: help that counts as a refusal, because it names the law, without a score that tells."""
    scores = [
        load_evaluator("refusal", settings).evaluate([answered(text)])[0].share
        for settings in (EvaluatorSettings(), STRICT)
    ]
    assert scores == [official, strict]


def test_ifeval_is_the_mean_of_four_shares():
    """Prevents: a mean of items, which weighs instructions by the number of those beside them."""
    one = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
    two = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    answers = [answered("No comma here", number=0, details=one), answered("No quotes", number=1, details=two)]
    scores = load_evaluator("instruction_following").evaluate(answers)
    totals = Totals.from_scores(["q0", "q1"], [("q0", scores[0]), ("q1", scores[1])])
    # Followed: 1 of 1, and 1 of 2; strictly and loosely alike.
    assert estimate_score(totals).value == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


def test_a_phrase_with_a_gap_matches_what_its_pattern_does():
    """Prevents: answers that the official code reads in another way."""
    words = ["the sentence", "is not plausible", "is", "not", "x"]
    phrase = "the sentence (.+?) is not plausible"
    texts = [" ".join(chosen) for count in range(6) for chosen in product(words, repeat=count)]
    assert [matches(phrase, text) for text in texts] == [bool(re.search(phrase, text)) for text in texts]
    assert 0 < sum(matches(phrase, text) for text in texts) < len(texts)


def test_reading_thousands_of_answers_takes_no_time():
    """Prevents: a phrase whose search goes on for ever on a hostile answer."""
    for text in ["a" * 100_000, "(" * 100_000, "the sentence " * 10_000, *choice_answers()[:200]]:
        multiple_choice.read_officially(text)
        multiple_choice.read_strictly(text)
        for task in bbh.TASKS:
            bbh.read_officially(bbh.normalize(text), task, keep_misreadings=True)
