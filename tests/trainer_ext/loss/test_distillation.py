"""Tests of the distillation loss against naive formulas: values, gradients and memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from trainer_ext.loss import distillation
from trainer_ext.loss.alignment import IGNORE_INDEX, gather_response_labels, gather_response_states
from trainer_ext.loss.distillation import distillation_loss
from trainer_ext.loss.logit_transform import NO_TRANSFORM, LogitTransform
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import LiveTargets, StoredTargets


def naive_jsd(log_p, log_q, beta):
    p, q = log_p.exp(), log_q.exp()
    log_m = (beta * p + (1 - beta) * q).log()
    return beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)


# Textbook formulas by name; tests/contracts/test_divergences.py covers divergences that are registered later.
NAIVE = {
    "forward_kl": lambda log_p, log_q, _: log_p.exp() * (log_p - log_q),
    "reverse_kl": lambda log_p, log_q, _: log_q.exp() * (log_q - log_p),
    "jsd": naive_jsd,
}


def naive_loss(states, head, labels, teacher_logits, objective, kept=None):
    """Return the paper's loss from all logits; with `kept` ids (N, k), over these and one tail bucket."""
    logits = states @ head.T
    shared = min(logits.shape[1], teacher_logits.shape[1])
    log_q = (logits[:, :shared] / objective.temperature).log_softmax(-1)
    log_p = (teacher_logits[:, :shared] / objective.temperature).log_softmax(-1)
    if kept is not None and kept.shape[1] < shared:
        log_p, log_q = (
            torch.cat(
                [
                    x.gather(1, kept),
                    x.scatter(1, kept, -torch.inf).logsumexp(-1, keepdim=True),
                ],
                dim=1,
            )
            for x in (log_p, log_q)
        )
    divergence = NAIVE[objective.divergence](log_p, log_q, objective.beta).sum()
    weight = objective.kl_weight * objective.temperature**2
    return cross_entropy(logits, labels, reduction="sum") + weight * divergence


def store(teacher_logits, k, temperature, rows, vocab_size) -> StoredTargets:
    """Return the targets that a cache stores of logits (M, V_t), in their own precision."""
    logits = teacher_logits[:, :vocab_size]
    log_probs, ids = logits.log_softmax(-1).topk(k)
    log_p = (logits / temperature).log_softmax(-1)
    log_tail = log_p.scatter(1, ids, -torch.inf).logsumexp(-1)
    return StoredTargets(rows, ids, log_probs, log_tail, vocab_size)


def make_inputs(tokens=37, hidden=24, rows=101, teacher_hidden=40, teacher_rows=101, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return (
        normal(tokens, hidden),
        normal(rows, hidden) / 3,
        torch.randint(rows, (tokens,), generator=generator),
        normal(tokens, teacher_hidden),
        normal(teacher_rows, teacher_hidden) / 3,
    )


def live(states, head, transform=NO_TRANSFORM):
    return LiveTargets(torch.arange(len(states), device=states.device), states, head, transform)


def assert_equals_naive(
    inputs, objective, k, chunk_tokens, dtype, tolerance, train_head=True, transform=NO_TRANSFORM, device="cpu"
):
    """Compare values and both gradients with float64, for a live teacher (k None) or a stored one."""
    # What is compared is the arithmetic, so both sides start from the numbers that `dtype` can hold.
    states, head, labels, teacher_states, teacher_head = (
        x.to(dtype).double() if x.is_floating_point() else x for x in (x.to(device) for x in inputs)
    )
    exact_states, exact_head = states.clone().requires_grad_(), head.clone().requires_grad_()
    teacher_logits = transform.scale * (teacher_states @ teacher_head.T)
    if transform.soft_cap is not None:
        teacher_logits = transform.soft_cap * torch.tanh(teacher_logits / transform.soft_cap)
    shared = min(len(head), len(teacher_head))
    signal, kept = live(teacher_states.to(dtype), teacher_head.to(dtype), transform), None
    if k is not None:
        stored = store(teacher_logits, min(k, shared), objective.temperature, signal.teacher_index, shared)
        kept = stored.ids
        signal = StoredTargets(stored.teacher_index, kept, stored.log_probs.float(), stored.log_tail.float(), shared)
    expected = naive_loss(exact_states, exact_head, labels, teacher_logits, objective, kept)
    expected.backward()

    ours_states = states.to(dtype).requires_grad_()
    ours_head = head.to(dtype).requires_grad_(train_head)
    parts = distillation_loss(ours_states, ours_head, labels, signal, objective, chunk_tokens)
    parts.total.backward()
    pairs = [(parts.total, expected), (ours_states.grad, exact_states.grad)]
    if train_head:
        pairs.append((ours_head.grad, exact_head.grad))
    for ours, exact in pairs:
        assert (ours.double() - exact).norm() <= tolerance * max(exact.norm(), 1e-3)


@pytest.mark.parametrize("divergence", sorted(NAIVE))
@pytest.mark.parametrize("k", [None, 1, 7, 90, 1000])
@pytest.mark.parametrize("teacher_rows", [90, 101, 120])
def test_equals_a_naive_float64_computation_in_value_and_gradient(divergence, k, teacher_rows):
    """Prevents: a factor tau lost in the backward, misaligned vocabularies, or a renormalized tail."""
    objective = Objective(kl_weight=0.7, temperature=1.7, divergence=divergence, beta=0.3)
    inputs = make_inputs(teacher_rows=teacher_rows)
    assert_equals_naive(inputs, objective, k, 16, torch.float32, 1e-5)
    assert_equals_naive(inputs, objective, k, 16, torch.bfloat16, 1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("divergence", sorted(NAIVE))
@pytest.mark.parametrize("k", [None, 7, 90])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_equals_a_naive_float64_computation_on_a_gpu(divergence, k, dtype, tolerance):
    """Prevents: kernels that compute something else when compiled, or logits that are rounded to half precision."""
    objective = Objective(kl_weight=0.7, temperature=1.7, divergence=divergence, beta=0.3)
    for rows in (101, 9000):
        inputs = make_inputs(rows=rows, teacher_rows=rows - 11)
        assert_equals_naive(inputs, objective, k, 16, dtype, tolerance, device="cuda")


@pytest.mark.parametrize("kernels", [False, True], ids=["torch", "kernels"])
@pytest.mark.parametrize("transform", [LogitTransform(1 / 8), LogitTransform(soft_cap=3.0), LogitTransform(2.0, 5.0)])
def test_a_teachers_scale_and_soft_cap_equal_a_naive_float64_computation(transform, kernels, monkeypatch):
    """Prevents: the divergence from a sharper or flatter teacher than a Gemma or a Granite is."""
    if kernels:
        pytest.importorskip("triton")
        from trainer_ext.loss.chunk_triton import TritonChunkLoss

        monkeypatch.setattr(distillation, "choose_chunk_loss", lambda _, objective: TritonChunkLoss(objective))
    objective = Objective(kl_weight=0.7, temperature=1.7, divergence="forward_kl")
    inputs = make_inputs(teacher_rows=120)
    device = "cuda" if kernels and torch.cuda.is_available() else "cpu"
    assert_equals_naive(inputs, objective, None, 16, torch.float32, 1e-5, transform=transform, device=device)


@settings(max_examples=80, deadline=None)
@given(
    tokens=st.integers(1, 20),
    rows=st.integers(3, 60),
    teacher_rows=st.integers(3, 60),
    temperature=st.floats(0.5, 8),
    kl_weight=st.floats(0, 3),
    divergence=st.sampled_from(sorted(NAIVE)),
    beta=st.floats(0.05, 0.95),
    k=st.one_of(st.none(), st.integers(1, 60)),
    chunk_tokens=st.sampled_from([1, 7, 1000]),
    train_head=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_naive_computation_whatever_the_shapes(
    tokens, rows, teacher_rows, temperature, kl_weight, divergence, beta, k, chunk_tokens,
    train_head, seed,
):  # fmt: skip
    """Prevents: errors at a last chunk of one token, a vocabulary smaller than k, or a temperature below one."""
    inputs = make_inputs(tokens, 5, rows, 6, teacher_rows, seed)
    objective = Objective(kl_weight, temperature, divergence, beta)
    assert_equals_naive(inputs, objective, k, chunk_tokens, torch.float32, 1e-5, train_head)


@settings(max_examples=40, deadline=None)
@given(mask=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_only_supervised_tokens_count_whatever_the_mask(mask):
    """Prevents: an ignored label used as an index from the end of the vocabulary."""
    torch.manual_seed(0)
    keep = torch.tensor(mask)
    labels = torch.randint(11, keep.shape).masked_fill(~keep, IGNORE_INDEX)
    hidden = torch.randn(*keep.shape, 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(11, 8, dtype=torch.float64)
    states = gather_response_states(hidden, labels)
    parts = distillation_loss(states, head, gather_response_labels(labels))
    parts.total.backward()
    scored = keep[:, 1:]
    expected = cross_entropy(
        (hidden[:, :-1] @ head.T).flatten(0, 1),
        labels[:, 1:].flatten(),
        reduction="sum",
        ignore_index=IGNORE_INDEX,
    )
    assert parts.total.item() == pytest.approx(expected.item(), abs=1e-9)
    touched = hidden.grad.abs().sum(-1)[:, :-1] > 0
    assert torch.equal(touched, scored)


@pytest.mark.parametrize("divergence", sorted(NAIVE))
@pytest.mark.parametrize("k", [None, 20])
def test_the_chunk_size_changes_nothing(divergence, k):
    """Prevents: a chunk left out or counted twice."""
    states, head, labels, teacher_states, teacher_head = make_inputs()
    signal = live(teacher_states, teacher_head)
    objective = Objective(divergence=divergence)
    if k is not None:
        signal = store(teacher_states @ teacher_head.T, k, objective.temperature, signal.teacher_index, len(head))
    results = []
    for chunk_tokens in (1, 7, len(states)):
        ours, ours_head = states.clone().requires_grad_(), head.clone().requires_grad_()
        parts = distillation_loss(ours, ours_head, labels, signal, objective, chunk_tokens)
        parts.total.backward()
        results.append((parts.ce, parts.kl, parts.entropy, ours.grad, ours_head.grad))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert (one - two).abs().max() < 1e-12


@pytest.mark.parametrize("k", [None, 20])
def test_channels_that_share_the_teachers_tokens_equal_two_calls(k):
    """Prevents: a wrong index of the shared teacher token when both channels ask one question."""
    states, head, labels, teacher_states, teacher_head = make_inputs()
    tokens = len(states)
    both = torch.cat([states, states.flip(1)]).requires_grad_()
    twice = torch.cat([labels, labels])
    rows = torch.cat([torch.arange(tokens), torch.arange(tokens)])
    if k is None:
        shared = LiveTargets(rows, teacher_states, teacher_head)
        doubled = live(torch.cat([teacher_states, teacher_states]), teacher_head)
    else:
        logits = teacher_states @ teacher_head.T
        shared = store(logits, k, 2.0, rows, len(head))
        doubled = store(torch.cat([logits, logits]), k, 2.0, torch.arange(2 * tokens), len(head))
    results = []
    for signal in (shared, doubled):
        both.grad = None
        parts = distillation_loss(both, head, twice, signal, chunk_tokens=10)
        parts.total.backward()
        results.append((parts.kl, both.grad))
    for one, two in zip(*results, strict=True):
        assert (one - two).abs().max() < 1e-12


def test_gives_the_figures_worked_out_by_hand():
    """Prevents: another formula than the paper's: V=2, tau=2, kl_weight=.5, student (0, 0), teacher (2 ln 3, 0), label
    0.
    """
    parts = distillation_loss(
        torch.zeros(1, 1),
        torch.ones(2, 1),
        torch.tensor([0]),
        live(torch.tensor([[2 * math.log(3)]]), torch.tensor([[1.0], [0.0]])),
        Objective(kl_weight=0.5, temperature=2.0),
    )
    assert parts.ce.item() == pytest.approx(0.693147, abs=1e-6)
    assert parts.kl.item() == pytest.approx(0.130812, abs=1e-6)
    assert parts.total.item() == pytest.approx(0.954771, abs=1e-6)
    assert parts.entropy.item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("divergence", sorted(NAIVE))
@pytest.mark.parametrize("k", [None, 20])
def test_is_zero_with_zero_gradient_when_student_equals_teacher(divergence, k):
    """Prevents: a KL without the teacher's entropy, which is positive for a perfect student."""
    states, head, labels, *_ = make_inputs()
    signal = live(states.clone(), head.clone())
    if k is not None:
        signal = store(states @ head.T, k, 2.0, signal.teacher_index, len(head))
    gradients = []
    for kl_weight in (0.0, 0.5):
        ours = states.clone().requires_grad_()
        parts = distillation_loss(ours, head, labels, signal, Objective(kl_weight, divergence=divergence))
        parts.total.backward()
        gradients.append(ours.grad)
        assert parts.kl.abs().max() < 1e-12
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12


def test_temperature_reaches_value_and_gradient():
    """Prevents: a temperature that is configured and never used, as in TRL's GKD."""
    states, head, labels, teacher_states, teacher_head = make_inputs()
    totals, gradients = [], []
    for temperature in (1.0, 4.0):
        ours = states.clone().requires_grad_()
        parts = distillation_loss(
            ours,
            head,
            labels,
            live(teacher_states, teacher_head),
            Objective(temperature=temperature),
        )
        parts.total.backward()
        totals.append(parts.total.item())
        gradients.append(ours.grad)
    assert abs(totals[0] - totals[1]) > 1
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()


def test_a_stored_teacher_is_nearer_to_the_live_one_the_more_it_keeps():
    """Prevents: an error that does not shrink with k, as after renormalizing over the kept ids."""
    states, head, labels, teacher_states, teacher_head = make_inputs(tokens=60, rows=400)
    teacher_head = torch.randn(400, 40, dtype=torch.float64)
    logits = teacher_states @ teacher_head.T
    gradients = {}
    for k in (None, 16, 64, 256, 400):
        signal = live(teacher_states, teacher_head)
        if k is not None:
            signal = store(logits, k, 2.0, signal.teacher_index, 400)
        ours = states.clone().requires_grad_()
        distillation_loss(ours, head, labels, signal).total.backward()
        gradients[k] = ours.grad
    exact = gradients[None]
    errors = [(gradients[k] - exact).norm() / exact.norm() for k in (16, 64, 256, 400)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


@pytest.mark.parametrize("divergence", sorted(NAIVE))
@pytest.mark.parametrize("k", [None, 3])
def test_extreme_logits_stay_finite(divergence, k):
    """Prevents: an overflow of exp(), or log(0)."""
    head = torch.tensor([[1e4], [-1e4], [0.0], [5e3], [-3.0]])
    teacher_head = torch.tensor([[-1e4], [1e4], [1.0], [-5e3], [0.0]])
    states = torch.ones(2, 1, requires_grad=True)
    signal = live(torch.ones(2, 1), teacher_head)
    if k is not None:
        signal = store(torch.ones(2, 1) @ teacher_head.T, k, 2.0, signal.teacher_index, 5)
    parts = distillation_loss(states, head, torch.tensor([1, 0]), signal, Objective(divergence=divergence))
    parts.total.backward()
    for value in (parts.total, parts.ce, parts.kl, parts.entropy, states.grad):
        assert torch.isfinite(value).all()


def test_the_last_prompt_token_counts_and_the_last_response_token_does_not():
    """Prevents: an off-by-one of the supervised states, with which the loss still falls."""
    torch.manual_seed(0)
    hidden = torch.randn(1, 6, 8, requires_grad=True)
    labels = torch.tensor(
        [[IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 4, 2, 1]]
    )  # three prompt tokens, three of the response
    parts = distillation_loss(gather_response_states(hidden, labels), torch.randn(5, 8), gather_response_labels(labels))
    parts.total.backward()
    touched = hidden.grad.abs().sum(dim=-1).squeeze(0) > 0
    assert touched.tolist() == [False, False, True, True, True, False]


class LargestTensor(TorchDispatchMode):
    """Record the elements of the largest new tensor, and the number of matrix products."""

    elements = 0
    products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.products += function.__name__.split(".")[0] in ("mm", "addmm_")
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("k", [None, 4])
def test_the_logits_of_all_tokens_are_never_in_memory(k):
    """Prevents: running out of memory by (N, V) logits: 0.6 GB per thousand tokens, several times."""
    tokens, rows, chunk_tokens = 500, 300, 10
    states = torch.randn(tokens, 8, requires_grad=True)
    head = torch.randn(rows, 8, requires_grad=True)
    signal = live(torch.randn(tokens, 8), torch.randn(rows, 8))
    if k is not None:
        signal = store(torch.randn(tokens, rows), k, 2.0, signal.teacher_index, rows)
    with LargestTensor() as largest:
        parts = distillation_loss(states, head, torch.randint(rows, (tokens,)), signal, chunk_tokens=chunk_tokens)
        parts.total.backward()
    assert largest.elements <= max(tokens * 8, chunk_tokens * rows)


def test_a_batch_without_response_tokens_gives_a_finite_zero_with_a_gradient_path():
    """Prevents: a hang of the other processes, which wait for the gradients of an empty shard."""
    states = torch.zeros(0, 8, requires_grad=True)
    head = torch.randn(5, 8, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.long)
    for signal in (None, live(torch.zeros(0, 6), torch.randn(5, 6))):
        parts = distillation_loss(states, head, labels, signal)
        assert parts.total.item() == 0
        parts.total.backward()
    assert states.grad.shape == (0, 8)
    assert not head.grad.any()


def test_evaluation_makes_no_gradient():
    """Prevents: a gradient as large as a trained head at every evaluated batch."""
    states, head, labels, teacher_states, teacher_head = make_inputs(tokens=20)
    signal = live(teacher_states, teacher_head)
    seen = []
    for with_grad in (True, False):
        head.requires_grad_()
        with torch.set_grad_enabled(with_grad), LargestTensor() as counter:
            distillation_loss(states, head, labels, signal, chunk_tokens=5)
        seen.append(counter.products)
    assert seen == [
        4 * 3,
        4 * 2,
    ]  # two heads read for each of four chunks, and one gradient of a head


def test_a_second_backward_is_refused():
    """Prevents: a gradient that is scaled twice, because it is scaled in place."""
    states = torch.randn(3, 4, requires_grad=True)
    parts = distillation_loss(states, torch.randn(5, 4), torch.tensor([0, 1, 2]))
    parts.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        parts.total.backward()


def test_parts_keep_their_precision_under_autocast():
    """Prevents: losing a KL of 1e-5 to TRL's default bfloat16 autocast."""
    states, head, labels, *_ = make_inputs()
    states, head = states.float(), head.float()
    signal = live(states + 0.001 * torch.randn_like(states), head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = distillation_loss(states, head, labels, signal)
    assert parts.kl.dtype == parts.entropy.dtype == parts.ce.dtype == torch.float32


def test_states_and_head_may_differ_in_precision():
    """Prevents: a type error of QLoRA's float32 states before a bfloat16 head."""
    states, head, labels, teacher_states, teacher_head = make_inputs()
    ours = states.float().requires_grad_()
    parts = distillation_loss(ours, head.bfloat16(), labels, live(teacher_states.bfloat16(), teacher_head.float()))
    parts.total.backward()
    assert torch.isfinite(ours.grad).all()


def test_impossible_tokens_do_not_poison_the_entropy():
    """Prevents: a NaN in the logs (0 * inf) for a head that forbids a token by -inf."""
    head = torch.tensor([[1.0], [0.5], [-math.inf]])
    parts = distillation_loss(torch.ones(1, 1), head, torch.tensor([0]))
    assert torch.isfinite(parts.ce).all()
    assert torch.isfinite(parts.entropy).all()
