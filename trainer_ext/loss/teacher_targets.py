"""What the loss is told: the teacher's side of every response token, and how it is to be compared.

N response tokens of the student, M of the teacher (a question's channels share them), H_t hidden size and V_t
vocabulary rows of the teacher, k kept ids of a stored one. A chunk is what a few of the student's tokens need of it.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class LiveTargets:
    """What a model thinks of the response tokens: its hidden states and the head that reads them."""

    rows: Tensor  # (N,), which of the teacher's tokens each of the student's is; all of them occur
    states: Tensor  # (M, H_t)
    head: Tensor | None  # (V_t, H_t); None: the student's own


@dataclass
class StoredTargets:
    """What a model thought of the response tokens: its k likeliest ids, the rest of the mass being one bucket.

    The log-probabilities are those at temperature 1, and one scalar makes them those at tau: the tail's mass at tau,
    which fixes c = log sum over all ids of p^(1/tau) in log p_tau = log p / tau - c, and keeps its own digits where
    1 minus the kept mass would lose them.
    """

    rows: Tensor  # (N,), which of the teacher's tokens each of the student's is
    ids: Tensor  # (M, k), each once
    log_probs: Tensor  # (M, k)
    log_tail: Tensor  # (M,), log of the mass of all other ids, at the run's temperature
    vocab_size: int  # over how many vocabulary rows the teacher's softmax was taken

    def chunk(self, rows: Tensor) -> "StoredChunk":
        """What some of the teacher's tokens (C,) come with."""
        whole = StoredChunk(self.ids, self.log_probs, self.log_tail, self.vocab_size)
        return whole.take(rows)


TeacherTargets = LiveTargets | StoredTargets


@dataclass(frozen=True)
class Objective:
    """The weights and the shape of the loss."""

    kl_weight: float = 0.5  # the paper's lambda
    temperature: float = 2.0  # the paper's tau
    divergence: str = "forward_kl"  # a key of DIVERGENCES
    beta: float = 0.5  # of the generalized Jensen-Shannon divergence alone: the teacher's share of the mixture


# The paper's (section 4.1).
PAPER_DEFAULTS = Objective()


@dataclass
class LiveChunk:
    """A live teacher's logits for C of the student's tokens."""

    logits: Tensor  # (C', V shared)
    rows: Tensor  # (C,), which of these each token is compared with

    def take(self, some: slice) -> "LiveChunk":
        return LiveChunk(self.logits, self.rows[some])


@dataclass
class StoredChunk:
    """What is stored for C of the student's tokens, as in `StoredTargets`."""

    ids: Tensor  # (C, k)
    log_probs: Tensor  # (C, k)
    log_tail: Tensor  # (C,)
    vocab_size: int

    def take(self, some: slice | Tensor) -> "StoredChunk":
        kept = (self.ids[some], self.log_probs[some], self.log_tail[some])
        return StoredChunk(*kept, self.vocab_size)


TeacherChunk = LiveChunk | StoredChunk | None
