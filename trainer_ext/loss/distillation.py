"""The loss: cross-entropy on hard targets and a divergence from the teacher, without (N, V) logits.

    total = sum over response tokens of  CE(label)  +  kl_weight * temperature^2 * D(teacher || student)

(paper, section 3.2; both softmaxes of D at `temperature`). One pass over chunks of tokens: the student's logits of a
chunk are made once, serve CE and D, and are overwritten by their own gradient, which is finished in the forward. What
lives at a time is one chunk of the student's logits, one of the teacher's, and a few rows of each; a head in half
precision wants a copy of a chunk besides, to be multiplied with.

N response tokens of the student, M of the teacher (a question's channels share them), V vocabulary rows of the
student, H and H_t hidden sizes of student and teacher, k kept ids of a stored teacher.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer_ext.loss.chunk_torch import TorchChunkLoss
from trainer_ext.loss.teacher_targets import (
    PAPER_DEFAULTS,
    LiveChunk,
    LiveTargets,
    Objective,
    StoredTargets,
    TeacherChunk,
    TeacherTargets,
)

# Rows of logits that live at a time, the student's and the teacher's together: 0.43 GiB at 151,936 ids in float32.
# Fewer would read the heads too often.
CHUNK_ROWS = 768

# (logits (C, V), labels (C,), the teacher's side) -> CE, divergence, hit, entropy, (C,) each; the logits become their
# gradient.
ChunkLoss = Callable[[Tensor, Tensor, TeacherChunk], tuple[Tensor, Tensor, Tensor, Tensor]]


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
    teacher: TeacherTargets | None = None,
    objective: Objective = PAPER_DEFAULTS,
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
    # Asked here: inside the function autograd is off, and a trained head looks as if it wanted a gradient.
    with_grad = torch.is_grad_enabled()
    total, ce, kl, correct, entropy = _OnePass.apply(
        states, head, labels, teacher, objective, chunk_tokens, with_grad
    )
    return LossParts(total, ce, kl, correct, entropy)


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, head, labels, teacher, objective, chunk_tokens, with_grad):
        precision = torch.promote_types(states.dtype, torch.float32)
        chunks = _walk(labels, teacher, chunk_tokens)
        student = Projection(head, states, precision, chunk_tokens)
        live = None
        if isinstance(teacher, LiveTargets):
            teacher_head = head if teacher.head is None else teacher.head
            live = Projection(
                teacher_head[: min(len(head), len(teacher_head))],
                teacher.states,
                precision,
                max((last - first + 1 for _, _, first, last in chunks), default=0),
            )
        ce, kl, entropy = (states.new_zeros(len(labels), dtype=precision) for _ in range(3))
        correct = torch.zeros_like(labels, dtype=torch.bool)
        wanted = [wants and with_grad for wants in ctx.needs_input_grad]
        states_grad = torch.empty_like(states) if wanted[0] else None
        head_grad = torch.zeros_like(head, dtype=precision) if wanted[1] else None
        elementwise = choose_chunk_loss(student.logits, objective)
        for chunk, rows, first, last in chunks:
            logits = student.project(chunk)  # (C, V), and from here on their gradient
            target: TeacherChunk = None
            if live is not None:
                target = LiveChunk(live.project(slice(first, last + 1)), rows - first)
            elif isinstance(teacher, StoredTargets):
                target = teacher.chunk(rows)
            ce[chunk], kl[chunk], correct[chunk], entropy[chunk] = elementwise(
                logits, labels[chunk], target
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
        return states_grad, head_grad, None, None, None, None, None


class Projection:
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


def _divide_fairly(tokens: int, teacher: TeacherTargets | None) -> int:
    """The size of equal chunks, so that no last one of a few tokens reads the whole head again."""
    most = CHUNK_ROWS // 2
    if isinstance(teacher, LiveTargets):
        most = CHUNK_ROWS * tokens // max(tokens + len(teacher.states), 1)
    chunks = -(-tokens // max(most, 1))
    return -(-tokens // max(chunks, 1)) or 1


def _walk(
    labels: Tensor, teacher: TeacherTargets | None, chunk_tokens: int
) -> list[tuple[Tensor, Tensor, int, int]]:
    """Chunks of the student's tokens in the order of the teacher's, so that channels share what they are compared with.

    Each is the tokens' indices (C,), the teacher's token of each (C,), and the first and last of these.
    """
    rows = torch.arange(len(labels), device=labels.device) if teacher is None else teacher.rows
    order = rows.argsort(stable=True)
    ordered = rows[order]
    starts = list(range(0, len(labels), chunk_tokens))
    ends = [min(start + chunk_tokens, len(labels)) - 1 for start in starts]
    # One wait for the device, not two a chunk.
    firsts, lasts = (ordered[at].tolist() for at in (starts, ends))
    return list(
        zip(order.split(chunk_tokens), ordered.split(chunk_tokens), firsts, lasts, strict=True)
        if starts
        else []
    )


def choose_chunk_loss(room: Tensor, objective: Objective) -> ChunkLoss:
    """What turns a chunk's logits into figures and gradient: one Triton kernel on a GPU, else plain torch."""
    if room.is_cuda and importlib.util.find_spec("triton") is not None:
        from trainer_ext.loss.chunk_triton import TritonChunkLoss

        return TritonChunkLoss(objective)
    return TorchChunkLoss(room, objective)
