"""Per-token CE, divergence, entropy and logit gradients of one chunk, in Triton on a GPU.

Plain torch needs twenty passes over a chunk's logits. Here one program per row works in float32: `normalize_rows` reads
a row once, `differentiate` reads it again and writes its gradient in the precision of the head.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer_ext.loss.chunk_torch import compare_outcomes
from trainer_ext.loss.divergences import TRITON_CODES
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import LiveChunk, StoredChunk, TeacherChunk

BLOCK = 8192
WARPS = 8
NO_DIVERGENCE = 0


class TritonChunkLoss:
    """As `chunk_torch.TorchChunkLoss`, without a buffer of the logits' size."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(
        self, logits: Tensor, labels: Tensor, target: TeacherChunk, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return CE, divergence, hit and entropy, (C,) each; logits (C, V) are overwritten."""
        label_logits = logits.gather(1, labels[:, None]).squeeze(1)
        if isinstance(target, StoredChunk):
            norms, divergence = self._loss_stored_(logits, labels, target, gradient)
        else:
            norms, divergence = self._loss_live(logits, labels, target, gradient)
        correct = label_logits == norms.largest
        return norms.log_norm - label_logits, divergence, correct, norms.entropy

    def _loss_live(
        self, logits: Tensor, labels: Tensor, target: LiveChunk | None, gradient: Tensor
    ) -> tuple["RowNorms", Tensor]:
        """Write the gradient of CE and of the divergence from a target, if there is one."""
        tau = self.objective.temperature
        shared = logits.shape[1] if target is None else target.logits.shape[1]
        norms = normalize_rows(logits, shared, tau)
        if target is None:
            zeros = torch.zeros_like(norms.log_norm)
            differentiate(logits, labels, gradient, norms, shared, tau, zeros)
            return norms, zeros
        weight = torch.full_like(norms.log_norm, self.objective.divergence_grad_weight)
        return norms, differentiate(
            logits,
            labels,
            gradient,
            norms,
            shared,
            tau,
            weight,
            TRITON_CODES[self.objective.divergence],
            self.objective.beta,
            target.logits,
            normalize_rows(target.logits, shared, tau).log_norm_scaled,
            target.rows,
        )

    def _loss_stored_(
        self, logits: Tensor, labels: Tensor, stored: StoredChunk, gradient: Tensor
    ) -> tuple["RowNorms", Tensor]:
        """Do the same for a stored teacher: the kernels process the tail, plain torch the few kept ids."""
        tau, shared = self.objective.temperature, stored.vocab_size
        kept = logits.gather(1, stored.ids)  # (C, k)
        logits.scatter_(1, stored.ids, -torch.inf)
        tail = normalize_rows(logits, shared, tau)
        norms = merge_top_k(tail, kept)
        log_norm_scaled = torch.logaddexp(tail.log_norm_scaled, (kept / tau).logsumexp(dim=-1))
        log_q = kept / tau - log_norm_scaled[:, None]
        log_q_tail = tail.log_norm_scaled - log_norm_scaled
        divergence, grad = compare_outcomes(
            log_q, None if kept.shape[1] == shared else log_q_tail, stored, self.objective
        )
        grad = grad * self.objective.divergence_grad_weight
        within_tail = RowNorms(norms.log_norm, tail.log_norm_scaled, norms.entropy, norms.largest)
        differentiate(logits, labels, gradient, within_tail, shared, tau, grad[:, -1].contiguous())
        kept_grad = (kept - norms.log_norm[:, None]).exp() + grad[:, : kept.shape[1]]
        kept_grad -= (stored.ids == labels[:, None]).to(kept_grad.dtype)
        gradient.scatter_(1, stored.ids, kept_grad.to(gradient.dtype))
        return norms, divergence


def merge_top_k(tail: "RowNorms", kept: Tensor) -> "RowNorms":
    """Return the norms of full rows from those without the kept logits, and the kept logits (C, k)."""
    kept_norm = kept.logsumexp(dim=-1)
    log_norm = torch.logaddexp(tail.log_norm, kept_norm)
    # Entropy of a mixture of two disjoint parts: each part's own, and that of the choice between them.
    log_share = tail.log_norm - log_norm
    log_probs = kept - log_norm[:, None]
    entropy = log_share.exp() * (tail.entropy - log_share.clamp(min=-1e30))
    entropy = entropy.nan_to_num() - (log_probs.exp() * log_probs).sum(dim=-1)
    largest = torch.maximum(tail.largest, kept.amax(dim=-1))
    return RowNorms(log_norm, tail.log_norm_scaled, entropy, largest)


@dataclass
class RowNorms:
    """Results of one pass over rows of logits, (R,) each."""

    log_norm: Tensor  # log sum exp
    log_norm_scaled: Tensor  # log sum exp of logits / temperature, over the first `shared` columns
    entropy: Tensor  # at temperature 1
    largest: Tensor


def normalize_rows(logits: Tensor, shared: int, temperature: float) -> RowNorms:
    """Compute norms, entropy and largest logit of every row; logits (R, V) of minus infinity count as absent."""
    norms = RowNorms(*logits.new_empty((4, len(logits))))
    _normalize_rows[(len(logits),)](
        logits,
        logits.stride(0),
        logits.shape[1],
        shared,
        1 / temperature,
        norms.log_norm,
        norms.log_norm_scaled,
        norms.entropy,
        norms.largest,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return norms


def differentiate(
    logits: Tensor,
    labels: Tensor,
    gradient: Tensor,
    norms: RowNorms,
    shared: int,
    temperature: float,
    weight: Tensor,
    divergence: int = NO_DIVERGENCE,
    beta: float = 0.5,
    teacher: Tensor | None = None,
    teacher_log_norm: Tensor | None = None,
    teacher_rows: Tensor | None = None,
) -> Tensor:
    """Write softmax - label + weight * gradient of the divergence; returns the divergence (R,).

    The last gradient is with respect to logits / temperature. Without a divergence it is the softmax at `temperature`
    over the first `shared` columns.

    Args:
        logits: (R, V).
        gradient: (R, V), in any precision; may be `logits` itself.
        weight: (R,), of the second term.
        teacher: logits (R', shared at least); row i of `logits` is compared with row `teacher_rows[i]`.
        teacher_log_norm: (R',), of the teacher's logits / temperature.
    """
    value = torch.zeros_like(norms.log_norm)
    _differentiate[(len(logits),)](
        logits,
        logits.stride(0),
        logits.shape[1],
        shared,
        1 / temperature,
        labels,
        gradient,
        gradient.stride(0),
        norms.log_norm,
        norms.log_norm_scaled,
        weight,
        value,
        logits if teacher is None else teacher,
        0 if teacher is None else teacher.stride(0),
        norms.log_norm if teacher_log_norm is None else teacher_log_norm,
        norms.log_norm if teacher_rows is None else teacher_rows,
        beta,
        DIVERGENCE=divergence,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return value


@triton.jit
def _normalize_rows(
    logits,
    stride,
    columns,
    shared,
    scale,
    log_norm,
    log_norm_scaled,
    entropy,
    largest,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    # Running sums relative to the largest logit so far, one for all columns and one for the shared ones.
    top = -1e30
    total = 0.0
    gap = 0.0
    top_scaled = -1e30
    total_scaled = 0.0
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(logits + at, mask=at < columns, other=float("-inf"))
        new_top = tl.maximum(top, tl.max(x, 0))
        shrink = tl.exp(top - new_top)
        e = tl.exp(x - new_top)
        gap = shrink * (gap + total * (top - new_top))
        gap += tl.sum(tl.where(e > 0, e * (x - new_top), 0.0), 0)
        total = total * shrink + tl.sum(e, 0)
        top = new_top
        y = tl.where(at < shared, x * scale, float("-inf"))
        new_top_scaled = tl.maximum(top_scaled, tl.max(y, 0))
        total_scaled = total_scaled * tl.exp(top_scaled - new_top_scaled)
        total_scaled += tl.sum(tl.exp(y - new_top_scaled), 0)
        top_scaled = new_top_scaled
    tl.store(log_norm + row, top + tl.log(total))
    tl.store(log_norm_scaled + row, top_scaled + tl.log(total_scaled))
    tl.store(entropy + row, tl.log(total) - gap / total)
    tl.store(largest + row, top)


@triton.jit
def _terms(log_p, log_q, log_beta, log_rest, beta, DIVERGENCE: tl.constexpr):
    """Return a divergence's terms and q * dD/dq, as in divergences.py."""
    if DIVERGENCE == 1:
        p = tl.exp(log_p)
        value = p * (log_p - log_q)
        q_times_grad = -p
    elif DIVERGENCE == 2:
        value = tl.exp(log_q) * (log_q - log_p)
        q_times_grad = value
    elif DIVERGENCE == 3:
        a = log_p + log_beta
        b = log_q + log_rest
        larger = tl.maximum(a, b)
        log_m = larger + tl.log(tl.exp(a - larger) + tl.exp(b - larger))
        q_times_grad = (1 - beta) * tl.exp(log_q) * (log_q - log_m)
        value = beta * tl.exp(log_p) * (log_p - log_m) + q_times_grad
    return value, q_times_grad


@triton.jit
def _differentiate(
    logits,
    stride,
    columns,
    shared,
    scale,
    labels,
    gradient,
    gradient_stride,
    log_norm,
    log_norm_scaled,
    weight,
    value,
    teacher,
    teacher_stride,
    teacher_log_norm,
    teacher_rows,
    beta,
    DIVERGENCE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    gradient += row * gradient_stride
    label = tl.load(labels + row)
    norm = tl.load(log_norm + row)
    norm_scaled = tl.load(log_norm_scaled + row)
    factor = tl.load(weight + row)
    total_value = 0.0
    total_q_grad = -1.0  # of the forward KL: minus the sum of p
    if DIVERGENCE > 0:
        teacher_row = tl.load(teacher_rows + row).to(tl.int64)
        teacher += teacher_row * teacher_stride
        teacher_norm = tl.load(teacher_log_norm + teacher_row)
        log_beta = tl.log(beta)
        log_rest = tl.log(1 - beta)
    if DIVERGENCE > 1:
        total_q_grad = 0.0
        for start in range(0, shared, BLOCK):
            at = start + tl.arange(0, BLOCK)
            inside = at < shared
            log_q = tl.load(logits + at, mask=inside, other=0.0) * scale - norm_scaled
            log_p = tl.load(teacher + at, mask=inside, other=0.0) * scale - teacher_norm
            _, q_times_grad = _terms(log_p, log_q, log_beta, log_rest, beta, DIVERGENCE)
            total_q_grad += tl.sum(tl.where(inside, q_times_grad, 0.0), 0)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < shared
        x = tl.load(logits + at, mask=at < columns, other=float("-inf"))
        grad = tl.exp(x - norm) - tl.where(at == label, 1.0, 0.0)
        log_q = x * scale - norm_scaled
        q = tl.where(inside & (x > float("-inf")), tl.exp(log_q), 0.0)
        if DIVERGENCE > 0:
            log_p = tl.load(teacher + at, mask=inside, other=0.0) * scale - teacher_norm
            terms, q_times_grad = _terms(log_p, log_q, log_beta, log_rest, beta, DIVERGENCE)
            total_value += tl.sum(tl.where(inside, terms, 0.0), 0)
            grad += factor * (tl.where(inside, q_times_grad, 0.0) - q * total_q_grad)
        else:
            grad += factor * q
        tl.store(gradient + at, grad.to(gradient.dtype.element_ty), mask=at < columns)
    if DIVERGENCE > 0:
        tl.store(value + row, total_value)
