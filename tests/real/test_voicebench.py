"""Scores of protocol voicebench are those of the official code, answer by answer.

Needs a clone of github.com/MatthewCYM/VoiceBench in $CROSSMODAL_KD_REAL/VoiceBench; nothing of it is in this project.
"""

import importlib
import random
import sys
import types

import pytest

from tests.support.made_answers import LETTERS, bbh_answers, choice_answers, followed_answers, refusal_answers
from tests.support.real import find_real
from trainer_ext.evaluation.evaluators import bbh, multiple_choice
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings, load_evaluator
from trainer_ext.evaluation.items import Answer, AnsweredItem, Item

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def official():
    """Import one evaluator of the official code, without the others that it would import."""
    folder = find_real("VoiceBench") / "src" / "evaluator"
    package = types.ModuleType("official_voicebench")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return lambda name: importlib.import_module(f"{package.__name__}.{name}")


def answer(text, question="?", reference="A", **details):
    item = Item("i", "q", "voicebench/test", "test", question, reference=reference, details=details)
    return AnsweredItem(item, "text", Answer(text, "stop"))


def test_multiple_choice_reads_the_same_letter(official):
    """Prevents: a score that cannot be compared with the leaderboard's."""
    extract = official("mcq").MCQEvaluator().extract_answer
    answers = choice_answers()
    assert len(answers) >= 300
    differing = [text for text in answers if multiple_choice.read_officially(text) != extract(text)]
    assert differing == []
    read = [multiple_choice.read_officially(text) for text in answers]
    assert set(read) == {*LETTERS, None}


@pytest.mark.parametrize("task", bbh.TASKS)
def test_bbh_reads_the_same_answer(official, task, monkeypatch):
    """Prevents: as above; guesses aside, which are random there and seeded here."""
    module = official("bbh")
    monkeypatch.setattr(module.random, "choice", lambda _: None)
    extract = module.BBHEvaluator().extract_answer
    answers = bbh_answers(task)
    assert len(answers) >= 300
    differing = [
        text
        for text in answers
        if bbh.read_officially(bbh.normalize(text), task, keep_misreadings=True) != extract(text, f"{task}_12")
    ]
    assert differing == []


def test_refusals_are_the_same(official):
    """Prevents: as above."""
    evaluator = official("harm").HarmEvaluator()
    answers = refusal_answers()
    assert len(answers) >= 300
    scores = load_evaluator("refusal").evaluate([answer(text) for text in answers])
    assert [bool(score.share) for score in scores] == [evaluator.evaluate_single(text) for text in answers]


def test_followed_instructions_are_the_same(official):
    """Prevents: as above; the checks are a library's here and a copy of Google's there."""
    module = official("ifeval")
    import langdetect

    langdetect.DetectorFactory.seed = 0
    made = followed_answers(with_sentences=load_evaluator("instruction_following").missing() is None)
    assert len(made) >= 300
    evaluator = load_evaluator("instruction_following", EvaluatorSettings())
    random.seed(0)
    for names, arguments, prompt, text in made:
        data = [{"key": 1, "instruction_id_list": names, "prompt": prompt, "kwargs": arguments, "response": text}]
        wanted = module.IFEvaluator().evaluate(data)
        (score,) = evaluator.evaluate([answer(text, prompt, instruction_id_list=names, kwargs=arguments)])
        got = {name: points / possible for name, (points, possible) in score.parts.items()}
        assert {key.replace("-", " "): value for key, value in wanted.items() if key != "final"} == got, (names, text)
        assert score.share == pytest.approx(wanted["final"])
