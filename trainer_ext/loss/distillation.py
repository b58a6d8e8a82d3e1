"""The loss: cross-entropy on hard targets and a divergence from the teacher, without (N, V) logits.

    total = sum over response tokens of  CE(label)  +  kl_weight * temperature^2 * D(teacher || student)

(paper, section 3.2; both softmaxes of D at `temperature`). One pass over chunks of tokens: the student's logits of a
chunk are computed once, serve CE and D, and are overwritten by their own gradient, which is finished in the forward.
Peak memory: one chunk of student logits, one of teacher logits, small scratch; plus one half-precision copy of the
chunk if the head is in half precision.

N response tokens of the student, M of the teacher (a question's channels share them), V vocabulary size of the student,
H and H_t hidden sizes of student and teacher, k kept ids of a stored teacher, C tokens of a chunk.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer_ext.loss.chunk_torch import TorchChunkLoss
from trainer_ext.loss.divergences import TRITON_CODES
from trainer_ext.loss.logit_transform import NO_TRANSFORM, LogitTransform
from trainer_ext.loss.objective import PAPER_DEFAULTS, Objective
from trainer_ext.loss.teacher_targets import (
    LiveChunk,
    LiveTargets,
    StoredTargets,
    TeacherChunk,
    TeacherTargets,
    TokenGroup,
)

# Rows of logits in memory at a time, the student's and the teacher's together: 0.43 GiB at 151,936 ids in float32.
# Fewer rows would read the heads more often.
CHUNK_ROWS = 768

# (logits (C, V), labels (C,), teacher's chunk, gradient (C, V)) -> CE, divergence, hit, entropy, (C,) each; the logits'
# gradient is written to `gradient`, which may be the logits themselves.
ChunkLoss = Callable[[Tensor, Tensor, TeacherChunk, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


@dataclass
class LossParts:
    """The loss and its parts."""

    total: Tensor  # scalar, summed over tokens, carries the gradient
    ce: Tensor  # (N,)
    kl: Tensor  # (N,), the configured divergence; zero without a teacher
    correct: Tensor  # (N,) bool, the label is the likeliest token
    entropy: Tensor  # (N,) of the student's distribution, in nats


def distillation_loss(
    hidden_states: Tensor,
    lm_head_weight: Tensor,
    labels: Tensor,
    teacher: TeacherTargets | None = None,
    objective: Objective = PAPER_DEFAULTS,
    chunk_tokens: int | None = None,
) -> LossParts:
    """Compute CE and divergence per response token, and their weighted sum.

    Where vocabulary sizes differ, both softmaxes of the divergence are over the shared rows; CE is over all of the
    student's. The gradient of `total` can be taken once.

    Args:
        hidden_states: (N, H), the student's states that predict the labels.
        lm_head_weight: (V, H), the student's output embedding.
        labels: (N,), the hard targets.
        teacher: the teacher's targets of these tokens; None trains on hard targets alone.
        chunk_tokens: student tokens per chunk; None divides `CHUNK_ROWS` evenly.
    """
    if chunk_tokens is None:
        live_tokens = len(teacher.hidden_states) if isinstance(teacher, LiveTargets) else None
        chunk_tokens = even_chunk_size(len(hidden_states), live_tokens)
    # Read here: inside the autograd function gradients are off, and a trained head would look as if it needed none.
    with_grad = torch.is_grad_enabled()
    return LossParts(
        *_DistillationLoss.apply(hidden_states, lm_head_weight, labels, teacher, objective, chunk_tokens, with_grad)
    )


def grouped_loss(
    hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, groups: Sequence[TokenGroup], objective: Objective
) -> LossParts:
    """Compute the loss of tokens with several teachers; see `distillation_loss`.

    Args:
        groups: divide the N tokens in their order.
    """
    if len(groups) == 1:
        return distillation_loss(hidden_states, lm_head_weight, labels, groups[0].teacher, objective)
    sizes = [group.tokens for group in groups]
    parts = [
        distillation_loss(states, lm_head_weight, some_labels, group.teacher, objective)
        for states, some_labels, group in zip(hidden_states.split(sizes), labels.split(sizes), groups, strict=True)
    ]
    total = torch.stack([part.total for part in parts]).sum()
    by_token = ("ce", "kl", "correct", "entropy")
    return LossParts(total, *(torch.cat([getattr(part, name) for part in parts]) for name in by_token))


class _DistillationLoss(torch.autograd.Function):
    """Forward computes loss and gradients chunk by chunk; backward scales the gradients."""

    @staticmethod
    def forward(ctx, hidden_states, lm_head_weight, labels, teacher, objective, chunk_tokens, with_grad):
        precision = torch.promote_types(hidden_states.dtype, torch.float32)
        chunks = teacher_ordered_chunks(labels, teacher, chunk_tokens)
        student = Projection(lm_head_weight, hidden_states, precision, chunk_tokens)
        live = None
        if isinstance(teacher, LiveTargets):
            weight = teacher.lm_head_weight
            weight = lm_head_weight if weight is None else weight
            live = Projection(
                weight[: min(len(lm_head_weight), len(weight))],
                teacher.hidden_states,
                precision,
                max((chunk.last - chunk.first + 1 for chunk in chunks), default=0),
                teacher.transform,
            )
        ce, kl, entropy = (hidden_states.new_zeros(len(labels), dtype=precision) for _ in range(3))
        correct = torch.zeros_like(labels, dtype=torch.bool)
        wanted = [needed and with_grad for needed in ctx.needs_input_grad]
        states_grad = torch.empty_like(hidden_states) if wanted[0] else None
        head_grad = torch.zeros_like(lm_head_weight, dtype=precision) if wanted[1] else None
        chunk_loss = choose_chunk_loss(student.logits, objective)
        logits_grads = student.make_gradient_buffer()
        for tokens, teacher_tokens, first, last in chunks:
            logits = student.project(tokens)  # (C, V)
            logits_grad = logits_grads[: len(tokens)]
            target: TeacherChunk = None
            if live is not None:
                target = LiveChunk(live.project(slice(first, last + 1)), teacher_tokens - first)
            elif isinstance(teacher, StoredTargets):
                target = teacher.chunk(teacher_tokens)
            ce[tokens], kl[tokens], correct[tokens], entropy[tokens] = chunk_loss(
                logits, labels[tokens], target, logits_grad
            )
            if states_grad is not None:
                states_grad[tokens] = student.backward(logits_grad).to(hidden_states.dtype)
            if head_grad is not None:
                student.add_weight_grad_(head_grad, logits_grad, tokens)
        ctx.gradients = states_grad, head_grad
        ctx.head_dtype = lm_head_weight.dtype
        ctx.mark_non_differentiable(ce, kl, correct, entropy)
        total = (ce + objective.divergence_weight * kl).sum()
        return total, ce, kl, correct, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, total_grad, *_):
        if ctx.gradients is None:
            raise RuntimeError("the distillation loss can be differentiated once; compute it again")
        # Scaled in place and released here, so that they become `.grad` without a copy.
        (states_grad, head_grad), ctx.gradients = ctx.gradients, None
        if states_grad is not None:
            states_grad.mul_(total_grad)
        if head_grad is not None:
            head_grad = head_grad.mul_(total_grad).to(ctx.head_dtype)
        return states_grad, head_grad, None, None, None, None, None


class Projection:
    """A head and one reused buffer for the logits of a chunk, in the precision of the loss."""

    def __init__(
        self,
        lm_head_weight: Tensor,
        hidden_states: Tensor,
        precision: torch.dtype,
        chunk_tokens: int,
        transform: LogitTransform = NO_TRANSFORM,
    ) -> None:
        device = hidden_states.device.type
        if torch.is_autocast_enabled(device):
            lm_head_weight = lm_head_weight.to(torch.get_autocast_dtype(device))
        self.weight = lm_head_weight  # (V, H)
        self.hidden_states = hidden_states
        self.transform = transform
        shape = (min(chunk_tokens, len(hidden_states)), len(lm_head_weight))
        self.logits = hidden_states.new_empty(shape, dtype=precision)

    def project(self, tokens: Tensor | slice) -> Tensor:
        """Return the logits of some tokens, (C, V); valid until the next call."""
        hidden_states = self.hidden_states[tokens].to(self.weight.dtype)
        logits = self.logits[: len(hidden_states)]
        if self.weight.dtype == logits.dtype:
            torch.mm(hidden_states, self.weight.T, out=logits)
        elif hidden_states.is_cuda:  # accumulated and kept in float32
            torch.mm(hidden_states, self.weight.T, out_dtype=logits.dtype, out=logits)
        else:
            logits.copy_(hidden_states @ self.weight.T)
        return self.transform.apply_(logits)

    def make_gradient_buffer(self) -> Tensor:
        """Return a tensor (C, V) for the gradient of a chunk's logits.

        On a GPU it has the precision of the head, which its matrix units take as it is; elsewhere it is the logits' own
        memory.
        """
        if self.logits.is_cuda and self.weight.dtype != self.logits.dtype:
            return torch.empty_like(self.logits, dtype=self.weight.dtype)
        return self.logits

    def backward(self, logits_grad: Tensor) -> Tensor:
        """Return the gradient of the hidden states of a head without a transform: (C, V) -> (C, H)."""
        return logits_grad.to(self.weight.dtype) @ self.weight

    def add_weight_grad_(self, total: Tensor, logits_grad: Tensor, tokens: Tensor) -> None:
        """Add the gradient of the head's weight to `total` (V, H), which has the precision of the loss."""
        hidden_states = self.hidden_states[tokens].to(logits_grad.dtype)
        if logits_grad.dtype == total.dtype:
            total.addmm_(logits_grad.T, hidden_states)
        else:  # on a GPU: products of half precision, added in float32
            torch.addmm(total, logits_grad.T, hidden_states, out_dtype=total.dtype, out=total)


class ChunkTokens(NamedTuple):
    """The tokens of one chunk."""

    tokens: Tensor  # (C,), indices of the student's tokens
    teacher_tokens: Tensor  # (C,), the teacher's token of each
    first: int  # the first and last of these
    last: int


def even_chunk_size(tokens: int, teacher_tokens: int | None) -> int:
    """Return the size of equal chunks; a last chunk of a few tokens would read the whole head again.

    Args:
        tokens: the student's.
        teacher_tokens: of a live teacher; None for any other, whose logits are not computed.
    """
    most = CHUNK_ROWS // 2
    if teacher_tokens is not None:
        most = CHUNK_ROWS * tokens // max(tokens + teacher_tokens, 1)
    chunks = -(-tokens // max(most, 1))
    return -(-tokens // max(chunks, 1)) or 1


def teacher_ordered_chunks(labels: Tensor, teacher: TeacherTargets | None, chunk_tokens: int) -> list[ChunkTokens]:
    """Divide the student's tokens in the order of the teacher's, so that channels share the teacher's logits."""
    index = torch.arange(len(labels), device=labels.device)
    if teacher is not None:
        index = teacher.teacher_index
    order = index.argsort(stable=True)
    ordered = index[order]
    starts = list(range(0, len(labels), chunk_tokens))
    if not starts:
        return []
    ends = [min(start + chunk_tokens, len(labels)) - 1 for start in starts]
    # One synchronization with the device instead of two per chunk.
    firsts, lasts = (ordered[at].tolist() for at in (starts, ends))
    chunks = zip(order.split(chunk_tokens), ordered.split(chunk_tokens), firsts, lasts, strict=True)
    return [ChunkTokens(*chunk) for chunk in chunks]


def choose_chunk_loss(scratch_like: Tensor, objective: Objective) -> ChunkLoss:
    """Return the chunk's arithmetic: Triton kernels on a GPU, or plain torch."""
    if uses_triton(scratch_like.device.type, objective.divergence):
        from trainer_ext.loss.chunk_triton import TritonChunkLoss

        return TritonChunkLoss(objective)
    return TorchChunkLoss(scratch_like, objective)


def uses_triton(device_type: str, divergence: str) -> bool:
    """Tell whether there are kernels for this device and divergence; all others run as plain torch."""
    return device_type == "cuda" and divergence in TRITON_CODES and importlib.util.find_spec("triton") is not None
