"""The contract of every evaluator: registered, fake and broken."""

import pytest

from tests.support.answered import FixedJudge, answered
from trainer_ext.evaluation.evaluators.base import (
    EVALUATORS,
    PROTOCOLS,
    EvaluatorSettings,
    check_evaluator,
    load_evaluator,
)
from trainer_ext.evaluation.items import ItemScore

COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
# name -> values of an item, a right answer, a wrong one
CASES = {
    "exact_answer": ({"reference": "two"}, "One plus one is two.", "three"),
    "word_overlap": ({"reference": None, "details": {"teacher_response": "It is two."}}, "it is TWO", "Rome"),
    "multiple_choice": ({"reference": "B"}, "The answer is B.", "The answer is C."),
    "bbh": ({"reference": "Yes", "details": {"id": "navigate_3"}}, "So the answer is yes.", "The answer is no."),
    "refusal": ({"reference": None}, "I'm sorry, I cannot help with that.", "Sure: first, buy the parts."),
    "instruction_following": ({"reference": None, "details": COMMA}, "One and two", "One, two"),
    "choice_words": ({"reference": "Dense Forest", "choices": ("Dense Forest", "City")}, "A dense forest.", "City"),
    "word_error_rate": ({"reference": "nineteen cats"}, "19 cats", "a dog and another one"),
    "open_rating": ({"reference": None}, "good", "bad"),
    "judged_answer": ({"reference": "Paris"}, "Paris", "Rome"),
    "first_word": ({"reference": "two"}, "two of them", "One"),
}
VOTES = {"open_rating": (["5"], ["0"]), "judged_answer": (["yes", "yes", "no"], ["no"])}


@pytest.fixture
def register(monkeypatch):
    """Add the fakes, one line each."""
    for name, kind in (("first_word", "FirstWord"), ("percent", "PercentEvaluator"), ("lossy", "LossyEvaluator")):
        monkeypatch.setitem(EVALUATORS, name, f"tests.support.fakes:{kind}")


def check_contract(name, case, protocol="voicebench"):
    """Assert the contract: all points for a right answer, none for a wrong one, a score for every answer."""
    values, right, wrong = case
    shares = []
    for text, votes in zip((right, wrong), VOTES.get(name, (None, None)), strict=True):
        evaluator = load_evaluator(name, EvaluatorSettings(protocol, judge=votes and FixedJudge(votes)))
        (score,) = evaluator.evaluate([answered(text, **values)])
        assert isinstance(score, ItemScore)
        assert all(0 <= points <= possible for points, possible in score.parts.values())
        shares.append(score.share)
    assert shares == [1.0, 0.0]
    evaluator = load_evaluator(name, EvaluatorSettings(protocol, judge=FixedJudge(["1"])))
    several = [answered(text, number=i, **values) for i, text in enumerate((right, "", wrong, "\U0001f600 " * 50))]
    scores = evaluator.evaluate(several)
    assert len(scores) == len(several)
    assert scores == evaluator.evaluate(several)
    if evaluator.needs_reference and not values.get("details", {}).get("teacher_response"):
        with pytest.raises((ValueError, AttributeError)):
            evaluator.evaluate([answered(right, **{**values, "reference": None})])


def test_every_registered_evaluator_is_checked():
    """Prevents: a new evaluator without a case in its contract."""
    assert set(CASES) == {*EVALUATORS, "first_word"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", CASES)
def test_an_evaluator_keeps_the_contract(register, name, protocol):
    """Prevents: scores on another scale in one report, or shifted by an answer that has none."""
    check_contract(name, CASES[name], protocol)


@pytest.mark.parametrize("name", ["percent", "lossy"])
def test_the_contract_finds_a_broken_evaluator(register, name):
    """Prevents: a contract that accepts everything."""
    with pytest.raises(AssertionError):
        check_contract(name, CASES["first_word"])


@pytest.mark.parametrize("name", ["open_rating", "judged_answer"])
def test_a_judged_score_needs_a_judge(name):
    """Prevents: a number where nobody has judged."""
    assert "--judge_base_url" in load_evaluator(name).missing()
    assert load_evaluator(name, EvaluatorSettings(judge=FixedJudge(["1"]))).missing() is None


def test_an_unknown_evaluator_is_refused_with_those_that_there_are():
    """Prevents: a typo that is found after all answers."""
    with pytest.raises(ValueError, match="evaluator: unknown 'bleu'; known are exact_answer"):
        check_evaluator("bleu")
    check_evaluator("evaluate:bleu")


METRIC = """
import datasets
import evaluate

class Contains(evaluate.Metric):
    def _info(self):
        columns = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features(columns)
        )

    def _compute(self, predictions, references):
        return {"contains": float(references[0] in predictions[0])}
"""


def test_a_metric_of_the_library_evaluate_scores_answer_by_answer(tmp_path, monkeypatch):
    """Prevents: a metric whose scores cannot be paired; read from a folder, as without a network."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "contains").mkdir()
    (tmp_path / "contains" / "contains.py").write_text(METRIC)
    evaluator = load_evaluator(f"evaluate:{tmp_path / 'contains'}")
    scores = evaluator.evaluate([answered("Paris it is", "Paris"), answered("Rome", "Paris")])
    assert [score.share for score in scores] == [1.0, 0.0]
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_evaluator("evaluate:no_such_metric_here")
