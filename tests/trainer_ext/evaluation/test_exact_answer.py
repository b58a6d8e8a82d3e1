"""Tests of what counts as an exact answer."""

import pytest

from trainer_ext.evaluation.evaluators.exact_answer import ends_in


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Pi is 3.14", "14", False), ("Pi is 3.14.", "3.14", True), ("It is -5", "5", False),
        ("It is \u22125.", "-5", True),
        ("That makes 1,000.", "1000", True), ("It was 1,5", "5", False), ("3-5", "5", True), ("at 10:30", "30", False),
        ("It is 'Paris'.", "Paris", True), ("It is \u2018Paris\u2019!", "paris", True), ("don't", "t", False),
        ("\u7b54\u6848\u662f\u5317\u4eac\u3002", "\u5317\u4eac", True), ("\u5317\u4eac\u4eba", "\u5317\u4eac", False),
        ("The 3rd", "rd", False), ("Room B2", "B2", True), ("five", "five.", True), ("", "x", False), ("x", "", False),
        ("Cafe\u0301", "caf\u00e9", True), ("It is five", "it is five", True), ("fifty five", "five", True),
    ],
)  # fmt: skip
def test_an_answer_ends_in_the_reference_s_words(answer, reference, right):
    """Prevents: "3.14" that counts as 14 and "-5" as 5, and 'Paris' in quotes or Chinese that never counts."""
    assert ends_in(answer, reference) == right
