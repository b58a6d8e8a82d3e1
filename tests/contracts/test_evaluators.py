"""The contract of every evaluator: registered, fake and broken."""

import pytest

from tests.support import fakes
from trainer_ext.evaluation.evaluators import EVALUATORS, load_evaluator
from trainer_ext.evaluation.scores import ALL_SOURCES, score_student

RIGHT, WRONG = ["two", "Paris"], ["Rome", ""]


@pytest.fixture
def register(monkeypatch):
    """Add the fakes, one line each."""
    monkeypatch.setitem(EVALUATORS, "first_word", "tests.support.fakes:FirstWord")
    monkeypatch.setitem(EVALUATORS, "fraction", "tests.support.fakes:FractionMetric")


def check_evaluator(name):
    """Assert the contract: strings in, a percentage out, under the evaluator's own name."""
    evaluator = load_evaluator(name)
    assert evaluator.compute(predictions=RIGHT, references=RIGHT)[name] == 100
    assert evaluator.compute(predictions=WRONG, references=RIGHT)[name] == 0


@pytest.mark.parametrize("name", [*EVALUATORS, "first_word"])
def test_an_evaluator_keeps_the_contract(register, name):
    """Prevents: scores on another scale in one report."""
    check_evaluator(name)


def test_the_contract_finds_a_broken_evaluator(register, monkeypatch):
    """Prevents: a contract that accepts everything."""
    monkeypatch.setattr(fakes.FractionMetric, "name_of_score", "fraction")
    with pytest.raises(AssertionError):
        check_evaluator("fraction")


def test_a_student_is_scored_by_the_evaluator_of_that_name(register, pristine_student, family, pairs):
    """Prevents: an evaluator that nothing can select."""
    test = pairs["test"].select(range(6))
    scores = score_student(pristine_student, family, test, 8, evaluator="first_word")
    assert scores[ALL_SOURCES].teacher_text != 100
    with pytest.raises(ValueError, match="evaluator: unknown 'bleu'"):
        score_student(pristine_student, family, test, 8, evaluator="bleu")
