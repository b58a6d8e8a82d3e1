"""Tests of the held-out questions of a run: evaluators that cannot run are found before the training."""

import pytest

from trainer_ext.evaluation.held_out import HeldOut, choose_evaluator, select_held_out


@pytest.mark.parametrize("evaluator", ["judged_answer", "open_rating", "bbh", "instruction_following"])
def test_an_evaluator_that_cannot_score_these_rows_is_refused_at_once(pairs, tmp_path, evaluator):
    """Prevents: a night of training that ends in an error of the report."""
    with pytest.raises(ValueError, match=r"needs|reference|has no"):
        HeldOut(pairs["test"], evaluator, 24, tmp_path)


def test_rows_choose_their_evaluator(pairs):
    """Prevents: exact answers compared with nothing, and open questions without any score."""
    test = pairs["test"]
    assert choose_evaluator(None, test) == "exact_answer"
    assert choose_evaluator(None, test.remove_columns("reference")) == "word_overlap"
    assert choose_evaluator("word_overlap", test) == "word_overlap"


def test_a_named_evaluator_is_asked_for_rows_that_have_a_reference(pairs, tmp_path):
    """Prevents: one row without a reference among a thousand that ends the run."""
    some = pairs["test"].map(lambda row, i: {"reference": None} if i % 2 else {}, with_indices=True)
    assert len(HeldOut(some, "exact_answer", 24, tmp_path).rows) == len(some) // 2
    none = some.map(lambda row: {"reference": None})
    with pytest.raises(ValueError, match="no held-out question has one"):
        HeldOut(none, "exact_answer", 24, tmp_path)


def test_rows_need_speech_and_the_teacher_s_answer(pairs):
    """Prevents: a gap of rows that exist in writing alone."""
    test = pairs["test"]
    for cell in ({"teacher_response": None}, {"speech": None, "speech_seconds": None}):
        spoiled = test.map(lambda row, i, cell=cell: cell if i == 0 else {}, with_indices=True)
        assert len(select_held_out(spoiled)) == len(test) - 1
    assert select_held_out(test.remove_columns("source")) is None
    assert select_held_out(None) is None
