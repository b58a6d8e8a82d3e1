"""How far the student's distribution q is from the teacher's p: one function and one line in `DIVERGENCES` each.

A function takes log p and log q, (R, outcomes) each and normalized over the outcomes, and beta. It returns the
divergence (R,) and writes its `pull`, q * dD/dq (R, outcomes), into a buffer: by the logits of q the gradient is then
pull - q * sum(pull), whatever the divergence. log p may be overwritten. Logits are finite.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def forward_kl(log_p: Tensor, log_q: Tensor, beta: float, pull: Tensor) -> Tensor:
    """KL(p || q), the paper's: the student must cover whatever the teacher finds likely."""
    torch.exp(log_p, out=pull)
    value = log_p.sub_(log_q).mul_(pull).sum(dim=-1)
    pull.neg_()
    return value


def reverse_kl(log_p: Tensor, log_q: Tensor, beta: float, pull: Tensor) -> Tensor:
    """KL(q || p): the student must not say what the teacher finds unlikely."""
    torch.sub(log_q, log_p, out=pull)
    return pull.mul_(torch.exp(log_q, out=log_p)).sum(dim=-1)


def jsd(log_p: Tensor, log_q: Tensor, beta: float, pull: Tensor) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (arXiv 2306.13649), 0 < beta < 1."""
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    torch.sub(log_q, log_m, out=pull).mul_(log_q.exp()).mul_(1 - beta)
    teachers = (log_p - log_m).mul_(log_p.exp()).sum(dim=-1)
    return teachers.mul_(beta).add_(pull.sum(dim=-1))


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float, Tensor], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}
