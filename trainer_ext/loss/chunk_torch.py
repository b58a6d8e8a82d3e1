"""Per-token CE, divergence, entropy and logit gradients of one chunk, in plain torch.

R tokens of a block, V vocabulary size of the student, k kept ids of a stored teacher.
"""

import torch
from torch import Tensor

from trainer_ext.loss.divergences import DIVERGENCES
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import LiveChunk, StoredChunk, TeacherChunk

# Logits per block of rows: few enough for a CPU's caches, many enough for a GPU.
BLOCK_LOGITS = {"cpu": 2**20, "cuda": 2**23}
BUFFERS = 4


class TorchChunkLoss:
    """Processes a chunk block by block, in reused buffers: fresh memory costs a CPU more than the arithmetic.

    Args:
        scratch_like: a tensor of the largest chunk's shape (C, V).
    """

    def __init__(self, scratch_like: Tensor, objective: Objective) -> None:
        self.objective = objective
        logits = BLOCK_LOGITS.get(scratch_like.device.type, BLOCK_LOGITS["cuda"])
        self.block = max(1, logits // scratch_like.shape[1])
        self.buffers = [torch.empty_like(scratch_like[: self.block]) for _ in range(BUFFERS)]

    def __call__(
        self, logits: Tensor, labels: Tensor, target: TeacherChunk, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return CE, divergence, hit and entropy, (C,) each; the logits' gradient is written to `gradient` (C, V)."""
        blocks = []
        for start in range(0, len(logits), self.block):
            block = slice(start, start + self.block)
            blocks.append(self._score(logits[block], labels[block], target and target.take(block), gradient[block]))
        ce, divergence, correct, entropy = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        return ce, divergence, correct, entropy

    def _score(
        self, logits: Tensor, labels: Tensor, target: TeacherChunk, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_probs = torch.log_softmax(logits, dim=-1, out=self.buffers[0][: len(logits)])
        grad = torch.exp(log_probs, out=self.buffers[1][: len(logits)])
        log_prob = log_probs.gather(1, labels[:, None]).squeeze(1)
        correct = log_prob == log_probs.amax(dim=-1)
        # Elementwise product and sum keep this precision; autocast would lower that of a dot product.
        entropy = -log_probs.clamp_(min=torch.finfo(log_probs.dtype).min).mul_(grad).sum(dim=-1)
        grad.scatter_add_(1, labels[:, None], grad.new_full((len(labels), 1), -1.0))
        divergence = torch.zeros_like(log_prob)
        if target is not None:
            if isinstance(target, LiveChunk):
                divergence, divergence_grad = self._compare_live(logits, target)
            else:
                divergence, divergence_grad = self._compare_stored(logits, target)
            weight = self.objective.divergence_grad_weight
            grad[:, : divergence_grad.shape[1]].add_(divergence_grad, alpha=weight)
        gradient.copy_(grad)
        return -log_prob, divergence, correct, entropy

    def _compare_live(self, logits: Tensor, target: LiveChunk) -> tuple[Tensor, Tensor]:
        """Return the divergence (R,) and its gradient with respect to logits / temperature (R, V shared)."""
        shared = target.logits.shape[1]
        log_q, log_p, buffer = (self.buffers[i][: len(logits), :shared] for i in (0, 2, 3))
        torch.div(logits[:, :shared], self.objective.temperature, out=buffer)
        torch.log_softmax(buffer, dim=-1, out=log_q)
        torch.index_select(target.logits, 0, target.rows, out=buffer)
        torch.log_softmax(buffer.div_(self.objective.temperature), dim=-1, out=log_p)
        divergence = DIVERGENCES[self.objective.divergence]
        value = divergence(log_p, log_q, self.objective.beta, buffer)
        total = buffer.sum(dim=-1, keepdim=True)
        return value, buffer.sub_(log_q.exp_().mul_(total))

    def _compare_stored(self, logits: Tensor, stored: StoredChunk) -> tuple[Tensor, Tensor]:
        """Do the same over the kept ids and one bucket of all others."""
        ids, shared = stored.ids, stored.vocab_size
        scaled, log_q_all = (self.buffers[i][: len(logits), :shared] for i in (0, 2))
        torch.div(logits[:, :shared], self.objective.temperature, out=scaled)
        torch.log_softmax(scaled, dim=-1, out=log_q_all)
        log_q = log_q_all.gather(1, ids)  # (R, k)
        if ids.shape[1] == shared:
            value, outcome_grad = compare_outcomes(log_q, None, stored, self.objective)
            return value, scaled.scatter_(1, ids, outcome_grad)
        # The student's tail is summed directly: 1 minus the kept mass would lose a small one to rounding.
        log_q_all.scatter_(1, ids, -torch.inf)
        tail = torch.log_softmax(log_q_all, dim=-1, out=scaled)  # within the tail
        some_id = log_q_all.argmax(dim=-1, keepdim=True)  # any id of the tail gives their difference
        log_q_tail = (log_q_all.gather(1, some_id) - tail.gather(1, some_id)).squeeze(1)
        value, outcome_grad = compare_outcomes(log_q, log_q_tail, stored, self.objective)
        # The tail's gradient is divided among its ids in proportion to their probabilities.
        grad = tail.exp_().mul_(outcome_grad[:, -1:])
        return value, grad.scatter_(1, ids, outcome_grad[:, :-1])


def compare_outcomes(
    log_q: Tensor, log_q_tail: Tensor | None, stored: StoredChunk, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Return the divergence over k kept ids and their tail (R,), and the gradient of their logits (R, k + 1).

    Args:
        log_q: (R, k), the student's log-probabilities of the kept ids at the temperature.
        log_q_tail: (R,), of all other ids together; None where there are none, then the gradient is (R, k).
    """
    log_p = (stored.log_probs.to(log_q.dtype) / objective.temperature).log_softmax(dim=-1)
    if log_q_tail is not None:
        log_tail = stored.log_tail[:, None].to(log_q.dtype)
        log_p = torch.cat([log_p + torch.expm1(log_tail).neg().log(), log_tail], dim=1)
        log_q = torch.cat([log_q, log_q_tail[:, None]], dim=1)
    q_times_grad = torch.empty_like(log_q)
    value = DIVERGENCES[objective.divergence](log_p, log_q, objective.beta, q_times_grad)
    return value, q_times_grad - log_q.exp() * q_times_grad.sum(dim=-1, keepdim=True)
