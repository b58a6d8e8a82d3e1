"""Tests of the health of answers."""

from tests.support.answered import answered
from trainer_ext.evaluation.health import find_script, measure_health, repeated_share
from trainer_ext.evaluation.items import LENGTH, REFUSED


def test_babbling_empty_and_foreign_answers_are_counted():
    """Prevents: a tuned model that scores well and cannot stop, or answers in another script, unnoticed."""
    texts = [("It is two.", "stop"), ("so on and on and on and on and on and on", LENGTH), ("", "stop")]
    texts += [("\u5b83\u662f\u4e8c", "stop"), ("", REFUSED)]
    health = measure_health([answered(text, finish=finish) for text, finish in texts])
    assert health.ended == 75
    assert health.refused == 20
    assert health.empty == 25
    assert health.other_script == 25
    assert health.repeated > 10
    assert measure_health([]).words == 0


def test_a_text_without_repetition_repeats_nothing():
    """Prevents: a measure that grows with length alone."""
    assert repeated_share(" ".join(map(str, range(1000)))) == 0
    assert repeated_share("a b c d " * 50) > 0.9
    assert repeated_share("short") == 0


def test_numbers_and_signs_have_no_script():
    """Prevents: "42" that counts as an answer in another script."""
    assert find_script("42!") == ""
    assert find_script("two \u4e8c two") == "LATIN"
