"""Teacher targets: the teacher's side of every response token, live or stored.

N response tokens of the student, M of the teacher (a question's channels share them), H_t hidden size and V_t
vocabulary size of the teacher, k kept ids of a stored one. A chunk holds the targets of C of the student's tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from trainer_ext.loss.logit_transform import NO_TRANSFORM, LogitTransform


@dataclass
class LiveTargets:
    """Hidden states and head of a teacher in memory."""

    teacher_index: Tensor  # (N,), the teacher's token of each of the student's; every teacher token occurs
    hidden_states: Tensor  # (M, H_t)
    lm_head_weight: Tensor | None  # (V_t, H_t); None: the student's own
    transform: LogitTransform = NO_TRANSFORM  # of states times head


@dataclass
class StoredTargets:
    """The k likeliest ids of a teacher; all other ids share one bucket.

    `log_probs` are at temperature 1. `log_tail` (log mass of all other ids at tau) fixes the normalizer at tau. It is
    stored because 1 - sum(kept) loses precision.
    """

    teacher_index: Tensor  # (N,), the teacher's token of each of the student's
    ids: Tensor  # (M, k), each once
    log_probs: Tensor  # (M, k)
    log_tail: Tensor  # (M,), at the run's temperature
    vocab_size: int  # vocabulary rows that the teacher's softmax was taken over

    def chunk(self, teacher_tokens: Tensor) -> "StoredChunk":
        """Return the targets of the teacher's tokens (C,)."""
        everything = StoredChunk(self.ids, self.log_probs, self.log_tail, self.vocab_size)
        return everything.take(teacher_tokens)


TeacherTargets = LiveTargets | StoredTargets


class TokenGroup(NamedTuple):
    """Tokens of the student that follow each other, and their teacher."""

    tokens: int | None  # None: all of them
    teacher: TeacherTargets | None  # its `teacher_index` is of these tokens; None trains on hard targets alone


@dataclass
class LiveChunk:
    """A live teacher's logits for C of the student's tokens."""

    logits: Tensor  # (C', V shared)
    rows: Tensor  # (C,), the row of `logits` for each token

    def take(self, tokens: slice) -> "LiveChunk":
        return LiveChunk(self.logits, self.rows[tokens])


@dataclass
class StoredChunk:
    """A stored teacher's targets for C of the student's tokens, as in `StoredTargets`."""

    ids: Tensor  # (C, k)
    log_probs: Tensor  # (C, k)
    log_tail: Tensor  # (C,)
    vocab_size: int

    def take(self, tokens: slice | Tensor) -> "StoredChunk":
        kept = (self.ids[tokens], self.log_probs[tokens], self.log_tail[tokens])
        return StoredChunk(*kept, self.vocab_size)


TeacherChunk = LiveChunk | StoredChunk | None
