"""The loss as a formula: values, gradients, and what it must not look at."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from trainer_ext.alignment import IGNORED, gather_response_labels, gather_response_states
from trainer_ext.losses import TeacherSignal, distillation_loss


def naive_loss(states, head, labels, teacher_states, teacher_head, kl_weight, temperature):
    """The paper's formula with every logit in memory."""
    logits = states @ head.T
    shared = min(len(head), len(teacher_head))
    log_probs = (logits[:, :shared] / temperature).log_softmax(-1)
    teacher = (teacher_states @ teacher_head[:shared].T / temperature).log_softmax(-1)
    kl = (teacher.exp() * (teacher - log_probs)).sum()
    return cross_entropy(logits, labels, reduction="sum") + kl_weight * temperature**2 * kl


def make_inputs(tokens=37, hidden=24, rows=101, teacher_hidden=40, teacher_rows=101):
    torch.manual_seed(0)
    return (
        torch.randn(tokens, hidden, dtype=torch.float64),
        torch.randn(rows, hidden, dtype=torch.float64) / 3,
        torch.randint(rows, (tokens,)),
        torch.randn(tokens, teacher_hidden, dtype=torch.float64),
        torch.randn(teacher_rows, teacher_hidden, dtype=torch.float64) / 3,
    )


@pytest.mark.parametrize("chunk_tokens", [1, 8, 37, 1000])
@pytest.mark.parametrize("teacher_rows", [90, 101, 120])
def test_equals_a_naive_float64_computation_in_value_and_gradient(chunk_tokens, teacher_rows):
    """A chunk left out, a factor tau lost in the hand-written backward, or unlike vocabularies misaligned."""
    states, head, labels, teacher_states, teacher_head = make_inputs(teacher_rows=teacher_rows)
    exact_states, exact_head = states.clone().requires_grad_(), head.clone().requires_grad_()
    expected = naive_loss(
        exact_states,
        exact_head,
        labels,
        teacher_states,
        teacher_head,
        kl_weight=0.7,
        temperature=1.7,
    )
    expected.backward()

    ours_states, ours_head = states.float().requires_grad_(), head.float().requires_grad_()
    signal = TeacherSignal(teacher_states.float(), teacher_head.float())
    parts = distillation_loss(
        ours_states,
        ours_head,
        labels,
        signal,
        kl_weight=0.7,
        temperature=1.7,
        chunk_tokens=chunk_tokens,
    )
    parts.total.backward()
    for ours, exact in (
        (parts.total, expected),
        (ours_states.grad, exact_states.grad),
        (ours_head.grad, exact_head.grad),
    ):
        assert (ours.double() - exact).norm() <= 1e-5 * exact.norm()


def test_gives_the_figures_worked_out_by_hand():
    """V=2, tau=2, kl_weight .5, student (0, 0), teacher (2 ln 3, 0), label 0: the paper's formula on paper."""
    parts = distillation_loss(
        torch.zeros(1, 1),
        torch.ones(2, 1),
        torch.tensor([0]),
        TeacherSignal(torch.tensor([[2 * math.log(3)]]), torch.tensor([[1.0], [0.0]])),
        kl_weight=0.5,
        temperature=2.0,
    )
    assert parts.ce.item() == pytest.approx(0.693147, abs=1e-6)
    assert parts.kl.item() == pytest.approx(0.130812, abs=1e-6)
    assert parts.total.item() == pytest.approx(0.954771, abs=1e-6)
    assert parts.entropy.item() == pytest.approx(math.log(2), abs=1e-6)


def test_is_zero_with_zero_gradient_when_student_equals_teacher():
    """Half a KL (the cross-entropy without the teacher's entropy) is positive here and pulls on a perfect student."""
    states, head, labels, *_ = make_inputs()
    signal = TeacherSignal(states.clone(), head.clone())
    gradients = []
    for kl_weight in (0.0, 0.5):
        ours = states.clone().requires_grad_()
        parts = distillation_loss(ours, head, labels, signal, kl_weight=kl_weight)
        parts.total.backward()
        gradients.append(ours.grad)
        assert parts.kl.abs().max() < 1e-12
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12


def test_temperature_reaches_value_and_gradient():
    """A temperature that is read from the configuration and then forgotten (TRL's GKD) changes nothing."""
    states, head, labels, teacher_states, teacher_head = make_inputs()
    totals, gradients = [], []
    for temperature in (1.0, 4.0):
        ours = states.clone().requires_grad_()
        parts = distillation_loss(
            ours, head, labels, TeacherSignal(teacher_states, teacher_head), temperature=temperature
        )
        parts.total.backward()
        totals.append(parts.total.item())
        gradients.append(ours.grad)
    assert abs(totals[0] - totals[1]) > 1
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()


def test_the_last_prompt_token_counts_and_the_last_response_token_does_not():
    """Off by one, the loss would score the wrong states and still fall."""
    torch.manual_seed(0)
    hidden = torch.randn(1, 6, 8, requires_grad=True)
    labels = torch.tensor(
        [[IGNORED, IGNORED, IGNORED, 4, 2, 1]]
    )  # three prompt tokens, three of the response
    parts = distillation_loss(
        gather_response_states(hidden, labels), torch.randn(5, 8), gather_response_labels(labels)
    )
    parts.total.backward()
    touched = hidden.grad.abs().sum(dim=-1).squeeze(0) > 0
    assert touched.tolist() == [False, False, True, True, True, False]


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any tensor made under it has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_never_holds_the_logits_of_all_tokens():
    """(N, V) logits are what makes a 7B student run out of memory: 0.6 GB a thousand tokens, several times over."""
    tokens, rows, chunk_tokens = 500, 300, 10
    states = torch.randn(tokens, 8, requires_grad=True)
    head = torch.randn(rows, 8, requires_grad=True)
    signal = TeacherSignal(torch.randn(tokens, 8), torch.randn(rows, 8))
    with LargestTensor() as largest:
        parts = distillation_loss(
            states, head, torch.randint(rows, (tokens,)), signal, chunk_tokens=chunk_tokens
        )
        parts.total.backward()
    assert largest.elements <= max(tokens * 8, chunk_tokens * rows)


def test_a_batch_without_response_tokens_gives_zero():
    """An empty shard on one process must not stop the others."""
    parts = distillation_loss(
        torch.zeros(0, 8), torch.randn(5, 8), torch.zeros(0, dtype=torch.long)
    )
    assert parts.total.item() == 0


def test_parts_keep_their_precision_under_autocast():
    """TRL trains in bfloat16 autocast by default, where a dot product of probabilities loses a KL of 1e-5."""
    states, head, labels, *_ = make_inputs()
    states, head = states.float(), head.float()
    signal = TeacherSignal(states + 0.001 * torch.randn_like(states), head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = distillation_loss(states, head, labels, signal)
    assert parts.kl.dtype == parts.entropy.dtype == parts.ce.dtype == torch.float32


def test_states_and_head_of_unlike_precision_meet():
    """A float32 adapter's states before a bfloat16 head, as QLoRA makes them."""
    states, head, labels, teacher_states, teacher_head = make_inputs()
    ours = states.float().requires_grad_()
    parts = distillation_loss(
        ours,
        head.bfloat16(),
        labels,
        TeacherSignal(teacher_states.bfloat16(), teacher_head.float()),
    )
    parts.total.backward()
    assert torch.isfinite(ours.grad).all()


def test_impossible_tokens_do_not_poison_the_entropy():
    """A head that forbids a token by -inf logits made 0 * inf = NaN in the log."""
    head = torch.tensor([[1.0], [0.5], [-math.inf]])
    parts = distillation_loss(torch.ones(1, 1), head, torch.tensor([0]))
    assert torch.isfinite(parts.ce).all()
    assert torch.isfinite(parts.entropy).all()
