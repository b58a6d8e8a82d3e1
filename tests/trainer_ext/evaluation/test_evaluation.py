"""Answers, scores and the report: repeatable, and right about what is right."""

import json

import pytest
from PIL import Image

from trainer_ext.arguments import ModelArguments
from trainer_ext.evaluation.answers import answer_rows, encode_prompts, generate_greedily
from trainer_ext.evaluation.plots import plot_run
from trainer_ext.evaluation.report import show_table, write_report
from trainer_ext.evaluation.scores import (
    ALL,
    EVALUATORS,
    Scores,
    ends_in,
    load_evaluator,
    score_student,
    select_scorable,
)
from trainer_ext.hub.model_card import write_card

BEFORE = {"sums": Scores(100.0, 80.0, 40.0, 40.0, 20.0), ALL: Scores(100.0, 80.0, 40.0, 40.0, 20.0)}
AFTER = {"sums": Scores(100.0, 98.0, 80.0, 18.0, 2.0), ALL: Scores(100.0, 98.0, 80.0, 18.0, 2.0)}


@pytest.mark.parametrize("channel", ["t2t", "s2t"])
def test_an_answer_does_not_depend_on_its_batch(student, family, pairs, channel):
    """Left padding that shifts positions, or clips handed to the wrong rows."""
    rows = pairs["test"]
    batched = answer_rows(student, family, rows, channel, 24, batch_size=7)
    single = [
        generate_greedily(student, family, encode_prompts(family, [row], channel), 24)[0]
        for row in rows
    ]
    assert batched == single
    assert len(set(batched)) > 3


def test_long_prompts_share_smaller_batches(student, family, pairs, monkeypatch):
    """Logits of a whole prompt by a whole vocabulary, 32 times, are 5 GB for a question of 20 seconds."""
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


def test_the_teacher_answers_its_own_world(pairs):
    """The ceiling of every score; if it is not near 100 the report measures something else."""
    metric = load_evaluator("exact_answer")
    result = metric.compute(
        predictions=pairs["test"]["teacher_response"], references=pairs["test"]["reference"]
    )
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
def test_the_last_words_decide(answer, reference, right):
    """Phrasing differs between gold, teacher and student; what counts is the answer, not its style."""
    assert ends_in(answer, reference) is right


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_scores_all_right_as_100_and_all_wrong_as_0(name):
    """The contract of the seam: strings in, a percentage out, under the evaluator's own name."""
    evaluator = load_evaluator(name)
    assert evaluator.compute(predictions=["two", "Paris"], references=["two", "Paris"])[name] == 100
    assert evaluator.compute(predictions=["Rome", ""], references=["two", "Paris"])[name] == 0


def test_scores_are_repeatable_and_break_down_by_source(student, family, pairs):
    """A score that moves by itself cannot show a gain."""
    first = score_student(student, family, pairs["test"], 24)
    assert first == score_student(student, family, pairs["test"], 24)
    assert set(first) == {*pairs["test"]["source"], ALL}
    for line in first.values():
        assert line.gap == line.text - line.speech
        assert line.forgetting == line.teacher_text - line.text


def test_rows_without_reference_or_speech_are_not_scored(pairs):
    """A data set of open questions has nothing to be exact about, one of text nothing to be heard."""
    test = pairs["test"]
    for cell in ({"reference": None}, {"speech": None, "speech_seconds": None}):
        spoiled = test.map(lambda row, i, cell=cell: cell if i == 0 else {}, with_indices=True)
        assert len(select_scorable(spoiled)) == len(test) - 1
    assert select_scorable(test.remove_columns("source")) is None
    assert select_scorable(None) is None


def test_the_report_says_the_same_in_the_terminal_in_json_and_on_the_card(
    tmp_path, capsys, make_config
):
    """Three places, one set of figures."""
    show_table(BEFORE, AFTER)
    shown = capsys.readouterr().out
    assert "80.0→98.0" in shown
    assert max(map(len, shown.splitlines())) <= 80
    report = write_report(tmp_path / "report.json", BEFORE, AFTER, {"seed": 3})
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["after"][ALL]["speech"] == 80.0
    assert report["versions"]["trl"]
    write_card(
        tmp_path,
        ModelArguments(
            model_name_or_path="student", teacher_model_name_or_path="teacher", use_peft=True
        ),
        make_config(),
        "questions",
        report,
    )
    card = (tmp_path / "README.md").read_text()
    assert "base_model: student" in card
    assert "80.0 -> 98.0" in card
    assert "0.5 * 2.0^2 * forward_kl" in card


def test_the_plot_is_a_picture(tmp_path):
    """A figure that fails at the end of a night."""
    history = [{"step": s, "t2t/ce": 1 / s, "s2t/ce": 2 / s, "s2t/kl": 1 / s} for s in (1, 2, 3)]
    plot_run(tmp_path / "plots.png", history, BEFORE, AFTER)
    with Image.open(tmp_path / "plots.png") as picture:
        assert min(picture.size) > 300
