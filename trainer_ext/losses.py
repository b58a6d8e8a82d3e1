"""The loss: cross-entropy on hard targets and a divergence from the teacher, without (N, V) logits.

    total = sum over response tokens of  CE(label)  +  kl_weight * temperature^2 * D(teacher || student)

(paper, section 3.2; both softmaxes of D at `temperature`). One pass over chunks of tokens: the student's logits of a
chunk are made once, serve CE and D, and are overwritten by their own gradient, which is finished in the forward. What
lives at a time is one chunk of the student's logits, one of the teacher's, and a few rows of each.

N response tokens of the student, M of the teacher (a question's channels share them), V vocabulary rows of the
student, H and H_t hidden sizes of student and teacher, k kept ids of a stored teacher.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer_ext.divergences import DIVERGENCES

# Rows of logits that live at a time, the student's and the teacher's together: 0.43 GiB at 151,936 ids in float32.
# Fewer would read the heads too often.
CHUNK_ROWS = 768
# Logits of the row blocks in which a chunk is worked through: few enough for a CPU's caches, many enough for a GPU.
BLOCK_LOGITS = {"cpu": 2**20, "cuda": 2**23}


@dataclass
class LiveSignal:
    """What a model thinks of the response tokens: its hidden states and the head that reads them."""

    rows: Tensor  # (N,), which of the teacher's tokens each of the student's is
    states: Tensor  # (M, H_t)
    head: Tensor | None  # (V_t, H_t); None: the student's own


@dataclass
class StoredSignal:
    """What a model thought of the response tokens: its k likeliest ids, the rest of the mass being one bucket.

    The log-probabilities are those at temperature 1, and one scalar makes them those at tau: the tail's mass at tau,
    which fixes c = log sum over all ids of p^(1/tau) in log p_tau = log p / tau - c, and keeps its own digits where
    1 minus the kept mass would lose them.
    """

    rows: Tensor  # (N,), which of the teacher's tokens each of the student's is
    ids: Tensor  # (M, k), each once
    log_probs: Tensor  # (M, k)
    log_tail: Tensor  # (M,), log of the mass of all other ids, at the run's temperature
    vocabulary_rows: int  # over how many vocabulary rows the teacher's softmax was taken


TeacherSignal = LiveSignal | StoredSignal


@dataclass(frozen=True)
class Objective:
    """The weights and the shape of the loss."""

    kl_weight: float = 0.5  # the paper's lambda
    temperature: float = 2.0  # the paper's tau
    divergence: str = "forward_kl"  # a key of DIVERGENCES
    beta: float = 0.5  # of the generalized Jensen-Shannon divergence alone: the teacher's share of the mixture


@dataclass
class LossParts:
    """The loss and what it is made of."""

    total: Tensor  # scalar, summed over tokens, carries the gradient
    ce: Tensor  # (N,)
    kl: Tensor  # (N,), the divergence, whichever it is; zero where there is no teacher
    correct: Tensor  # (N,) bool, the label is the likeliest token
    entropy: Tensor  # (N,) of the student's distribution, in nats


def distillation_loss(
    states: Tensor,
    head: Tensor,
    labels: Tensor,
    teacher: TeacherSignal | None = None,
    objective: Objective = Objective(),
    chunk_tokens: int | None = None,
) -> LossParts:
    """CE and divergence per response token, and their weighted sum.

    With unlike numbers of vocabulary rows both softmaxes of the divergence are over the rows both have; CE is over all
    of the student's. The gradient of `total` can be taken once.

    Args:
        states: (N, H), the student's states that predict the labels.
        head: (V, H), the student's output embedding.
        labels: (N,), the hard targets.
        teacher: its signal for these tokens; None trains on hard targets alone.
        chunk_tokens: how many of the student's tokens are projected at a time; None divides `CHUNK_ROWS` fairly.
    """
    if chunk_tokens is None:
        chunk_tokens = _divide_fairly(len(states), teacher)
    total, ce, kl, correct, entropy = _OnePass.apply(
        states, head, labels, teacher, objective, chunk_tokens
    )
    return LossParts(total, ce, kl, correct, entropy)


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, head, labels, teacher, objective, chunk_tokens):
        precision = torch.promote_types(states.dtype, torch.float32)
        student = _Projection(head, states, precision, chunk_tokens)
        live = None
        if isinstance(teacher, LiveSignal):
            teacher_head = head if teacher.head is None else teacher.head
            live = _Projection(
                teacher_head[: min(len(head), len(teacher_head))],
                teacher.states,
                precision,
                chunk_tokens,
            )
        ce, kl, entropy = (states.new_zeros(len(labels), dtype=precision) for _ in range(3))
        correct = torch.zeros_like(labels, dtype=torch.bool)
        states_grad = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        head_grad = torch.zeros_like(head, dtype=precision) if ctx.needs_input_grad[1] else None
        block_tokens = max(1, BLOCK_LOGITS.get(states.device.type, 2**23) // len(head))
        room = student.logits[:block_tokens]
        scratch = [torch.empty_like(room) for _ in range(4)]
        for chunk, rows, first, last in _walk(labels, teacher, chunk_tokens):
            logits = student.project(chunk)  # (C, V), and from here on their gradient
            teacher_logits = None if live is None else live.project(slice(first, last + 1))
            for start in range(0, len(chunk), block_tokens):
                block = slice(start, start + block_tokens)
                tokens = chunk[block]
                target: Tensor | StoredSignal | None = None
                if teacher_logits is not None:
                    target = teacher_logits[rows[block] - first]  # (R, V shared)
                elif isinstance(teacher, StoredSignal):
                    target = _take(teacher, rows[block])
                ce[tokens], kl[tokens], correct[tokens], entropy[tokens] = _score_(
                    logits[block], labels[tokens], target, objective, scratch
                )
            if states_grad is not None:
                states_grad[chunk] = student.project_back(logits).to(states.dtype)
            if head_grad is not None:
                head_grad.addmm_(logits.T, states[chunk].to(precision))
        ctx.gradients = states_grad, head_grad
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(ce, kl, correct, entropy)
        total = (ce + objective.kl_weight * objective.temperature**2 * kl).sum()
        return total, ce, kl, correct, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, total_grad, *_):
        if ctx.gradients is None:
            raise RuntimeError("the distillation loss can be differentiated once; compute it again")
        # Scaled in place and let go of, so that they become `.grad` without a copy.
        (states_grad, head_grad), ctx.gradients = ctx.gradients, None
        if states_grad is not None:
            states_grad.mul_(total_grad)
        if head_grad is not None:
            head_grad = head_grad.mul_(total_grad).to(ctx.head_dtype)
        return states_grad, head_grad, None, None, None, None


class _Projection:
    """A head and one buffer for the logits of a chunk, in the precision of the loss."""

    def __init__(
        self, head: Tensor, states: Tensor, precision: torch.dtype, chunk_tokens: int
    ) -> None:
        device = states.device.type
        autocast = torch.is_autocast_enabled(device)
        self.head = head.to(torch.get_autocast_dtype(device)) if autocast else head  # (V, H)
        self.states = states
        self.logits = states.new_empty((min(chunk_tokens, len(states)), len(head)), dtype=precision)

    def project(self, tokens: Tensor | slice) -> Tensor:
        """Logits of some tokens, (C, V); valid until the next call."""
        states = self.states[tokens].to(self.head.dtype)
        logits = self.logits[: len(states)]
        if self.head.dtype == logits.dtype:
            return torch.mm(states, self.head.T, out=logits)
        if states.is_cuda:  # accumulated and kept in float32
            return torch.mm(states, self.head.T, out_dtype=logits.dtype, out=logits)
        return logits.copy_(states @ self.head.T)

    def project_back(self, logits_grad: Tensor) -> Tensor:
        """The gradient of the states from that of their logits: (C, V) -> (C, H)."""
        return logits_grad.to(self.head.dtype) @ self.head


def _divide_fairly(tokens: int, teacher: TeacherSignal | None) -> int:
    """The size of equal chunks, so that no last one of a few tokens reads the whole head again."""
    most = CHUNK_ROWS // 2
    if isinstance(teacher, LiveSignal):
        most = CHUNK_ROWS * tokens // max(tokens + len(teacher.states), 1)
    chunks = -(-tokens // max(most, 1))
    return -(-tokens // max(chunks, 1)) or 1


def _walk(labels: Tensor, teacher: TeacherSignal | None, chunk_tokens: int):
    """Chunks of the student's tokens in the order of the teacher's, so that channels share what they are compared with.

    Yields indices of tokens (C,), the teacher's token of each (C,), and the first and last of these.
    """
    rows = torch.arange(len(labels), device=labels.device) if teacher is None else teacher.rows
    order = rows.argsort(stable=True)
    starts = list(range(0, len(labels), chunk_tokens))
    ends = [min(start + chunk_tokens, len(labels)) - 1 for start in starts]
    # One wait for the device, not two a chunk.
    firsts, lasts = (rows[order[at]].tolist() for at in (starts, ends))
    for start, first, last in zip(starts, firsts, lasts, strict=True):
        chunk = order[start : start + chunk_tokens]
        yield chunk, rows[chunk], first, last


def _take(signal: StoredSignal, rows: Tensor) -> StoredSignal:
    return StoredSignal(
        rows,
        signal.ids[rows],
        signal.log_probs[rows],
        signal.log_tail[rows],
        signal.vocabulary_rows,
    )


def _score_(
    logits: Tensor,
    labels: Tensor,
    target: Tensor | StoredSignal | None,
    objective: Objective,
    scratch: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CE, divergence, hit and entropy of R tokens, (R,) each; `logits` (R, V) become the gradient of the loss.

    Args:
        target: the teacher's logits (R, V shared), or what is stored of them.
        scratch: four buffers of the logits' shape at least; fresh memory costs a CPU more than the arithmetic.
    """
    log_probs = torch.log_softmax(logits, dim=-1, out=scratch[0][: len(logits)])
    grad = torch.exp(log_probs, out=scratch[1][: len(logits)])
    log_prob = log_probs.gather(1, labels[:, None]).squeeze(1)
    correct = log_prob == log_probs.amax(dim=-1)
    # Products and sums stay in this precision; under autocast a dot product would not.
    entropy = -log_probs.clamp_(min=torch.finfo(log_probs.dtype).min).mul_(grad).sum(dim=-1)
    grad.scatter_add_(1, labels[:, None], grad.new_full((len(labels), 1), -1.0))
    divergence = torch.zeros_like(log_prob)
    if target is not None:
        if isinstance(target, StoredSignal):
            divergence, divergence_grad = _compare_stored(logits, target, objective, scratch)
        else:
            divergence, divergence_grad = _compare(logits, target, objective, scratch)
        # temperature^2 in front, 1 / temperature from inside the softmax
        weight = objective.kl_weight * objective.temperature
        grad[:, : divergence_grad.shape[1]].add_(divergence_grad, alpha=weight)
    logits.copy_(grad)
    return -log_prob, divergence, correct, entropy


def _compare(
    logits: Tensor, teacher_logits: Tensor, objective: Objective, scratch: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """The divergence of R tokens (R,), and its gradient by logits / temperature (R, V shared)."""
    count, shared = teacher_logits.shape
    log_q, log_p, pull = (scratch[i][:count, :shared] for i in (0, 2, 3))
    for log_softmax, some in ((log_q, logits[:, :shared]), (log_p, teacher_logits)):
        scaled = torch.div(some, objective.temperature, out=pull)
        torch.log_softmax(scaled, dim=-1, out=log_softmax)
    value = DIVERGENCES[objective.divergence](log_p, log_q, objective.beta, pull)
    total_pull = pull.sum(dim=-1, keepdim=True)
    return value, pull.sub_(log_q.exp_().mul_(total_pull))


def _compare_stored(
    logits: Tensor, stored: StoredSignal, objective: Objective, scratch: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """As `_compare`, over k + 1 outcomes: the kept ids, and all others as one."""
    tau, ids, shared = objective.temperature, stored.ids, stored.vocabulary_rows
    scaled = torch.div(logits[:, :shared], tau, out=scratch[0][: len(logits), :shared])
    log_q_all = torch.log_softmax(scaled, dim=-1, out=scratch[2][: len(logits), :shared])
    log_q = log_q_all.gather(1, ids)  # (R, k)
    log_p = (stored.log_probs.to(scaled.dtype) / tau).log_softmax(dim=-1)
    has_tail = ids.shape[1] < shared
    if has_tail:
        log_tail = stored.log_tail[:, None].to(scaled.dtype)
        log_p = torch.cat([log_p + torch.expm1(log_tail).neg().log(), log_tail], dim=1)
        # The student's tail is summed itself: 1 minus the kept mass would lose a small one to rounding.
        log_q_all.scatter_(1, ids, -torch.inf)
        tail = torch.log_softmax(log_q_all, dim=-1, out=scaled)  # within the tail, (R, V shared)
        log_q = torch.cat([log_q, log_q_all.logsumexp(dim=-1, keepdim=True)], dim=1)
    pull = torch.empty_like(log_q)
    value = DIVERGENCES[objective.divergence](log_p, log_q, objective.beta, pull)
    outcome_grad = pull - log_q.exp() * pull.sum(dim=-1, keepdim=True)  # (R, k + 1)
    if not has_tail:
        return value, scaled.scatter_(1, ids, outcome_grad)
    # The tail's gradient falls on its ids in proportion to their probabilities.
    grad = tail.exp_().mul_(outcome_grad[:, -1:])
    return value, grad.scatter_(1, ids, outcome_grad[:, :-1])
