"""Meet at the response: from padded sequences of unlike length to flat rows, one per response token.

B rows of a batch, T tokens of a row, N response tokens of the batch, H hidden size. Student and teacher read prompts
of different length; what they have in common are the response tokens. The state that predicts a token stands one
position before it, so the last prompt token's state counts and the last response token's does not.
"""

import torch
from torch import Tensor

IGNORED = -100  # label of a token that the loss does not score


def response_mask(labels: Tensor) -> Tensor:
    """(B, T-1) bool: position t predicts a scored token at t+1."""
    return labels[:, 1:] != IGNORED


def gather_response_states(hidden: Tensor, labels: Tensor) -> Tensor:
    """The hidden states that predict the response tokens, in row order: (B, T, H), (B, T) -> (N, H)."""
    return hidden[:, :-1][response_mask(labels)]


def gather_response_labels(labels: Tensor) -> Tensor:
    """The response tokens themselves, in row order: (B, T) -> (N,)."""
    return labels[:, 1:][response_mask(labels)]


def response_rows(labels: Tensor) -> Tensor:
    """Which row each response token belongs to: (B, T) -> (N,)."""
    return response_mask(labels).nonzero()[:, 0]


def pair_with_teacher(labels: Tensor, teacher_labels: Tensor, question_of_row: Tensor) -> Tensor:
    """For each of the student's response tokens, the same token among the teacher's: (N,) indices.

    Args:
        labels: (B, T), the student's, one row per question and channel.
        teacher_labels: (Q, T'), the teacher's, one row per question.
        question_of_row: (B,), which question each student row asks.
    """
    lengths = response_mask(teacher_labels).sum(dim=1)  # (Q,)
    starts = lengths.cumsum(dim=0) - lengths
    row_lengths = response_mask(labels).sum(dim=1)  # (B,)
    row_starts = row_lengths.cumsum(dim=0) - row_lengths
    rows = response_rows(labels)
    offsets = torch.arange(len(rows), device=labels.device) - row_starts[rows]
    return starts[question_of_row[rows]] + offsets
