"""Divergences between the teacher's distribution p and the student's q.

A function takes log p and log q, (R, outcomes) each and normalized over the outcomes, and beta. It returns the
divergence (R,) and writes q * dD/dq (R, outcomes) into `q_times_grad`. The gradient of the student's logits is then
`q_times_grad - q * q_times_grad.sum(-1)`. log p may be overwritten. Logits are finite.

A new divergence is one function here and one line in `DIVERGENCES`. On a GPU it runs as plain torch, unless
`chunk_triton._terms` has a branch for it and `TRITON_CODES` names that branch.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def forward_kl(log_p: Tensor, log_q: Tensor, beta: float, q_times_grad: Tensor) -> Tensor:
    """Compute KL(p || q), the paper's: the student must cover what the teacher finds likely."""
    torch.exp(log_p, out=q_times_grad)
    value = log_p.sub_(log_q).mul_(q_times_grad).sum(dim=-1)
    q_times_grad.neg_()
    return value


def reverse_kl(log_p: Tensor, log_q: Tensor, beta: float, q_times_grad: Tensor) -> Tensor:
    """Compute KL(q || p): the student must avoid what the teacher finds unlikely."""
    torch.sub(log_q, log_p, out=q_times_grad)
    return q_times_grad.mul_(torch.exp(log_q, out=log_p)).sum(dim=-1)


def jsd(log_p: Tensor, log_q: Tensor, beta: float, q_times_grad: Tensor) -> Tensor:
    """Compute beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (arXiv 2306.13649), 0 < beta < 1."""
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    torch.sub(log_q, log_m, out=q_times_grad).mul_(log_q.exp()).mul_(1 - beta)
    teacher_part = (log_p - log_m).mul_(log_p.exp()).sum(dim=-1)
    return teacher_part.mul_(beta).add_(q_times_grad.sum(dim=-1))


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float, Tensor], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}
TRITON_CODES = {"forward_kl": 1, "reverse_kl": 2, "jsd": 3}  # 0 is no teacher
