"""Align student and teacher: from padded sequences of different length to flat rows, one per response token.

B rows of a batch, T tokens of a row, N response tokens of the batch, H hidden size. The prompts of student and teacher
differ in length; the response tokens are what they share. The hidden state that predicts a token is one position before
it, so the last prompt token's state counts and the last response token's does not.
"""

import torch
from torch import Tensor

IGNORE_INDEX = -100  # label of a token that the loss does not score


def pad_rows(
    prompts: list[list[int]], responses: list[list[int]], pad_id: int, padding_side: str = "right"
) -> dict[str, Tensor]:
    """Return prompts and responses as one batch: input_ids, attention_mask and labels, (rows, longest) each."""
    width = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    # Three views of one storage: a storage costs half a millisecond on its way from a worker, whatever its size.
    input_ids, attention_mask, labels = torch.zeros(3, len(prompts), width, dtype=torch.long)
    input_ids.fill_(pad_id)
    labels.fill_(IGNORE_INDEX)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        length = len(prompt) + len(response)
        start = width - length if padding_side == "left" else 0
        input_ids[i, start : start + length] = torch.tensor(prompt + response)
        attention_mask[i, start : start + length] = 1
        labels[i, start + len(prompt) : start + length] = torch.tensor(response)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def response_mask(labels: Tensor) -> Tensor:
    """Return the positions that predict a scored token: (B, T) -> (B, T-1) bool."""
    return labels[:, 1:] != IGNORE_INDEX


def gather_response_states(hidden_states: Tensor, labels: Tensor) -> Tensor:
    """Return the hidden states that predict the response tokens, in row order: (B, T, H), (B, T) -> (N, H)."""
    return hidden_states[:, :-1][response_mask(labels)]


def gather_response_labels(labels: Tensor) -> Tensor:
    """Return the response tokens, in row order: (B, T) -> (N,)."""
    return labels[:, 1:][response_mask(labels)]


def response_rows(labels: Tensor) -> Tensor:
    """Return the row of each response token: (B, T) -> (N,)."""
    return response_mask(labels).nonzero()[:, 0]


def pair_with_teacher(labels: Tensor, response_lengths: Tensor, question_index: Tensor) -> Tensor:
    """Return, for each of the student's N response tokens, the index of the same token among the teacher's M: (N,).

    Args:
        labels: (B, T), the student's, one row per question and channel.
        response_lengths: (Q,), response tokens of every question; the teacher's are laid out question by question.
        question_index: (B,), the question of each student row.
    """
    starts = response_lengths.cumsum(dim=0) - response_lengths
    row_lengths = response_mask(labels).sum(dim=1)  # (B,)
    row_starts = row_lengths.cumsum(dim=0) - row_lengths
    rows = response_rows(labels)
    offsets = torch.arange(len(rows), device=labels.device) - row_starts[rows]
    return starts[question_index[rows]] + offsets
