"""Tests of forgetting and misalignment: nothing for equal models, and the naive computation's figure."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.support.lab import STUDENT
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.collator import PairCollator
from trainer_ext.evaluation.divergences import measure_divergences
from trainer_ext.evaluation.quick_scores import choose_questions
from trainer_ext.judge_free import token_kl
from trainer_ext.loss.alignment import gather_response_states
from trainer_ext.loss.teacher_targets import LiveTargets
from trainer_ext.pair_batch import PairBatch
from trainer_ext.students.distill_forward import install_distill_forward
from trainer_ext.teachers.self_teacher import SelfTeacher


@pytest.fixture
def measured(student, family):
    install_distill_forward(student, family.packed_inputs)
    return student


def naive_kl(first: torch.Tensor, second: torch.Tensor) -> float:
    """Sum KL(first || second) over the tokens of two logits (N, V), in float64."""
    log_p, log_q = (logits.double().log_softmax(dim=-1) for logits in (first, second))
    return float((log_p.exp() * (log_p - log_q)).sum())


@torch.no_grad()
def test_both_figures_are_those_of_whole_logits(measured, family, pairs, teacher):
    """Prevents: another temperature, another direction, or tokens of one question against those of another."""
    rows = pairs["test"].select(range(8))
    teacher.attach(measured, torch.device("cpu"), 2.0)
    found = measure_divergences(measured, family, rows, teacher, batch_size=3)
    collator = PairCollator(family, teacher.encoder)
    for i, row in enumerate(rows):
        batch = PairBatch.split(collator([{**row, "channels": ["t2t", "s2t"]}]))
        hidden = measured.base_model(**batch.model_inputs, use_cache=False).last_hidden_state
        text, speech = (
            gather_response_states(hidden[n : n + 1], batch.labels[n : n + 1]) @ measured.lm_head.weight.T
            for n in (0, 1)
        )
        targets = teacher.targets(batch.teacher_inputs, batch.teacher_index())
        wanted = targets.hidden_states @ targets.lm_head_weight.T
        tokens = len(text)
        assert found["misalignment"][:, i].tolist() == pytest.approx([naive_kl(text, speech), tokens], rel=1e-4)
        assert found["forgetting"][:, i].tolist() == pytest.approx([naive_kl(wanted, text), tokens], rel=1e-4)


def test_nothing_is_forgotten_by_the_untouched_student_itself(measured, family, pairs):
    """Prevents: a divergence of rounding, or of two forwards, where there is none."""
    adapted = get_peft_model(measured, LoraConfig(target_modules=family.lora_target_modules))  # changes nothing yet
    teacher = SelfTeacher(family)
    teacher.attach(adapted, torch.device("cpu"), 2.0)
    found = measure_divergences(adapted, family, pairs["test"].select(range(4)), teacher)
    assert abs(found["forgetting"][0] / found["forgetting"][1]).max() < 1e-6
    states = torch.randn(5, 16)
    head = torch.randn(50, 16)
    equal = LiveTargets(torch.arange(5), states, None)
    assert token_kl(equal, states, head).abs().max() < 1e-7


def test_rows_that_cannot_be_heard_are_left_out(measured, family, pairs):
    """Prevents: one broken clip among the held-out rows that ends a night's run after its last step."""
    rows = [pairs["test"][i] for i in range(3)]
    rows[1]["speech"] = {"bytes": b"no sound", "path": None}
    found = measure_divergences(measured, family, rows, None)
    assert found["misalignment"][1].tolist()[1] == 0
    assert found["misalignment"][1].gt(0).sum() == 2
    assert "forgetting" not in found


def test_an_evaluation_logs_both_and_they_choose_the_best_checkpoint(make_trainer, pairs):
    """Prevents: figures at the end alone, and a best checkpoint by a loss that does not see the gap."""
    trainer = make_trainer(
        eval_dataset=pairs["test"], eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        max_steps=3, load_best_model_at_end=True, metric_for_best_model="misalignment",
    )  # fmt: skip
    trainer.train()
    logged = [entry["eval_misalignment"] for entry in trainer.state.log_history if "eval_misalignment" in entry]
    assert len(logged) == 3
    assert trainer.state.best_metric == min(logged)
    assert all(entry > 0 for entry in logged)
    assert any("eval_forgetting" in entry for entry in trainer.state.log_history)
    found = measure_divergences(trainer.model, trainer.family, pairs["test"], trainer.teacher)
    total, tokens = found["misalignment"].sum(dim=1).tolist()
    assert total / tokens == pytest.approx(min(logged), rel=1e-4)


def test_lower_is_better_without_being_told(make_config):
    """Prevents: `greater_is_better` guessed wrong, which restores the worst checkpoint."""
    for metric in ("misalignment", "forgetting", "eval_misalignment"):
        config: CrossModalDistillConfig = make_config(
            eval_strategy="steps", save_strategy="steps", load_best_model_at_end=True, metric_for_best_model=metric
        )
        assert config.greater_is_better is False


def test_questions_are_answered_at_every_evaluation(make_trainer, pairs):
    """Prevents: scores at the end alone; and a training that goes on in eval mode, or with other numbers, after."""
    settings = dict(eval_dataset=pairs["test"], eval_strategy="steps", eval_steps=1, max_steps=2)
    trainer = make_trainer(**settings, eval_answers=5)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    for entry in logged:
        assert 0 <= entry["eval_speech/exact_answer"] <= 100
        assert entry["eval_text/exact_answer"] > 40
    plain = make_trainer(**settings, model=trainer.family.load_model(STUDENT, dtype=torch.float32))
    plain.train()
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (trainer, plain)]
    assert losses[0] == losses[1]


def test_questions_are_chosen_from_all_of_the_rows(pairs):
    """Prevents: scores of the first topic alone, or of a question once per voice."""
    chosen = choose_questions(pairs["test"], 5)
    assert len(set(chosen["question"])) == len(chosen) == 5
    assert len(set(chosen["source"])) > 2
    assert len(choose_questions(pairs["test"], 1000)) == len(set(pairs["test"]["question"]))


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        ("misalignment", {"channels": ["s2t"]}),
        ("forgetting", {"teacher_kind": "stored"}),
        ("text/exakt_answer", {"eval_answers": 2}),
        ("text/exact_answer", {}),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused_before_the_training(make_trainer, pairs, metric, settings):
    """Prevents: a KeyError at the first evaluation, hours after the start."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": metric, "save_strategy": "steps"}
    with pytest.raises(ValueError, match=r"metric_for_best_model .* is none of"):
        make_trainer(eval_dataset=pairs["train"], eval_strategy="steps", **best, **settings)
