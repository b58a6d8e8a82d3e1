"""The contract of every divergence: registered, fake and broken."""

import pytest
import torch

from tests.support.fakes import careless_divergence, chi_squared
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.loss.distillation import distillation_loss, uses_triton
from trainer_ext.loss.divergences import DIVERGENCES
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import LiveTargets

STEP = 1e-6


@pytest.fixture
def register(monkeypatch):
    """Add the fakes, one line each."""
    monkeypatch.setitem(DIVERGENCES, "chi_squared", chi_squared)
    monkeypatch.setitem(DIVERGENCES, "careless_divergence", careless_divergence)


def evaluate(function, log_p, logits):
    """Return the divergence (R,) and the gradient of the student's logits (R, V) by the documented formula."""
    log_q = logits.log_softmax(-1)
    q_times_grad = torch.empty_like(log_q)
    value = function(log_p.clone(), log_q.clone(), 0.3, q_times_grad)
    return value, q_times_grad - log_q.exp() * q_times_grad.sum(-1, keepdim=True)


def check_divergence(name):
    """Assert the contract: zero at equality, positive elsewhere, and the gradient of finite differences."""
    function = DIVERGENCES[name]
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(3, 7, generator=generator, dtype=torch.float64).log_softmax(-1)
    logits = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    at_equality, gradient = evaluate(function, log_p, log_p)
    assert at_equality.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12
    value, gradient = evaluate(function, log_p, logits)
    assert (value > 0).all()
    for column in range(logits.shape[1]):
        moved = logits.clone()
        moved[:, column] += STEP
        numeric = (evaluate(function, log_p, moved)[0] - value) / STEP
        assert torch.allclose(numeric, gradient[:, column], atol=1e-4)


@pytest.mark.parametrize("name", [*DIVERGENCES, "chi_squared"])
def test_a_divergence_keeps_the_contract(register, name):
    """Prevents: a run that minimizes something else than it logs."""
    check_divergence(name)


def test_the_contract_finds_a_broken_divergence(register):
    """Prevents: a contract that accepts everything."""
    with pytest.raises(AssertionError):
        check_divergence("careless_divergence")


def test_a_new_divergence_trains_by_its_name_without_a_triton_form(register, tmp_path):
    """Prevents: a KeyError on the first GPU step."""
    config = CrossModalDistillConfig(
        output_dir=str(tmp_path), divergence="chi_squared", report_to="none", use_cpu=True, bf16=False
    )
    assert config.divergence == "chi_squared"
    assert not uses_triton("cuda", "chi_squared")
    assert uses_triton("cuda", "jsd")
    states = torch.randn(5, 4, requires_grad=True)
    head = torch.randn(9, 4)
    targets = LiveTargets(torch.arange(5), torch.randn(5, 4), head)
    objective = Objective(divergence="chi_squared")
    distillation_loss(states, head, torch.arange(5), targets, objective).total.backward()
    assert torch.isfinite(states.grad).all()
