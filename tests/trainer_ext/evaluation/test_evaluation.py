"""Tests of generated answers, scores and the report."""

import json

import pytest
from PIL import Image

from trainer_ext.evaluation.answers import answer_rows, encode_prompts, generate_greedily
from trainer_ext.evaluation.evaluators import EVALUATORS, load_evaluator
from trainer_ext.evaluation.exact_answer import ends_in
from trainer_ext.evaluation.plots import plot_run
from trainer_ext.evaluation.report import show_table, write_report
from trainer_ext.evaluation.scores import ALL_SOURCES, Scores, score_student, select_scorable
from trainer_ext.hub.model_card import RunFacts, write_model_card

BEFORE = {"sums": Scores(100.0, 80.0, 40.0, 40.0, 20.0), ALL_SOURCES: Scores(100.0, 80.0, 40.0, 40.0, 20.0)}
AFTER = {"sums": Scores(100.0, 98.0, 80.0, 18.0, 2.0), ALL_SOURCES: Scores(100.0, 98.0, 80.0, 18.0, 2.0)}


@pytest.mark.parametrize("channel", ["t2t", "s2t"])
def test_an_answer_does_not_depend_on_its_batch(student, family, pairs, channel):
    """Prevents: left padding that shifts positions, or clips assigned to other rows."""
    rows = pairs["test"]
    batched = answer_rows(student, family, rows, channel, 24, batch_size=7)
    single = [generate_greedily(student, family, encode_prompts(family, [row], channel), 24)[0] for row in rows]
    assert batched == single
    assert len(set(batched)) > 3


def test_long_prompts_share_smaller_batches(student, family, pairs, monkeypatch):
    """Prevents: running out of memory: logits of 32 whole prompts are 5 GB for questions of 20 seconds."""
    rows = pairs["test"].select(range(9))
    at_once = answer_rows(student, family, rows, "s2t", 8)
    sizes = []

    def generate(model, family, inputs, max_new_tokens):
        sizes.append(len(inputs["input_ids"]))
        return generate_greedily(model, family, inputs, max_new_tokens)

    monkeypatch.setattr("trainer_ext.evaluation.answers.MAX_LOGITS", 200 * family.vocab_size)
    monkeypatch.setattr("trainer_ext.evaluation.answers.generate_greedily", generate)
    assert answer_rows(student, family, rows, "s2t", 8) == at_once
    assert sum(sizes) == 9
    assert 1 <= max(sizes) <= 3


def test_the_teacher_answers_the_questions_it_was_trained_on(pairs):
    """Prevents: a report that measures something else: the teacher is the ceiling and must be near 100."""
    metric = load_evaluator("exact_answer")
    result = metric.compute(predictions=pairs["test"]["teacher_response"], references=pairs["test"]["reference"])
    assert result["exact_answer"] > 95


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("one plus one is two.", "two", True),
        ("The answer is Two", "two", True),
        ("One plus one is twenty two.", "two", True),
        ("Two is one plus one.", "two", False),
        ("", "two", False),
        ("The young cat is called a kitten.", "a kitten", True),
        ("two", "", False),
    ],
)
def test_the_last_words_decide_an_exact_match(answer, reference, right):
    """Prevents: scoring style: gold, teacher and student phrase the same answer differently."""
    assert ends_in(answer, reference) is right


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_scores_all_right_as_100_and_all_wrong_as_0(name):
    """Prevents: an evaluator with another scale, or under another name."""
    evaluator = load_evaluator(name)
    assert evaluator.compute(predictions=["two", "Paris"], references=["two", "Paris"])[name] == 100
    assert evaluator.compute(predictions=["Rome", ""], references=["two", "Paris"])[name] == 0


def test_scores_are_repeatable_and_break_down_by_source(student, family, pairs):
    """Prevents: a score that changes between two runs and cannot show a gain."""
    first = score_student(student, family, pairs["test"], 24)
    assert first == score_student(student, family, pairs["test"], 24)
    assert set(first) == {*pairs["test"]["source"], ALL_SOURCES}
    for line in first.values():
        assert line.gap == line.text - line.speech
        assert line.forgetting == line.teacher_text - line.text


def test_rows_without_reference_or_speech_are_not_scored(pairs):
    """Prevents: exact match of open questions, or speech scores of text rows."""
    test = pairs["test"]
    for cell in ({"reference": None}, {"speech": None, "speech_seconds": None}):
        spoiled = test.map(lambda row, i, cell=cell: cell if i == 0 else {}, with_indices=True)
        assert len(select_scorable(spoiled)) == len(test) - 1
    assert select_scorable(test.remove_columns("source")) is None
    assert select_scorable(None) is None


def test_terminal_json_and_card_report_the_same_scores(tmp_path, capsys, make_config, family):
    """Prevents: different figures in different places."""
    show_table(BEFORE, AFTER, "exact_answer")
    shown = capsys.readouterr().out
    assert "80.0→98.0" in shown
    assert max(map(len, shown.splitlines())) <= 80
    report = write_report(tmp_path / "report.json", BEFORE, AFTER, {"seed": 3})
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["after"][ALL_SOURCES]["speech"] == 80.0
    assert report["versions"]["trl"]
    facts = RunFacts("student", use_peft=True, teacher_model="teacher", dataset_name="questions", report=report)
    write_model_card(tmp_path, facts, make_config(), family)
    card = (tmp_path / "README.md").read_text()
    assert "base_model: student" in card
    assert "80.0 -> 98.0" in card
    assert "0.5 * 2.0^2 * forward_kl" in card


def test_the_plot_is_a_valid_png(tmp_path):
    """Prevents: a plot that fails at the end of a run."""
    history = [{"step": s, "t2t/ce": 1 / s, "s2t/ce": 2 / s, "s2t/kl": 1 / s} for s in (1, 2, 3)]
    plot_run(tmp_path / "plots.png", history, BEFORE, AFTER)
    with Image.open(tmp_path / "plots.png") as picture:
        assert min(picture.size) > 300
