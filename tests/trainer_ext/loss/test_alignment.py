"""Tests of the alignment of student and teacher tokens."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_ext.loss.alignment import (
    IGNORE_INDEX,
    gather_response_labels,
    gather_response_states,
    pair_with_teacher,
    response_rows,
)


def pad(rows: list[list[int]], left: bool) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor(
        [[IGNORE_INDEX] * (width - len(r)) + r if left else r + [IGNORE_INDEX] * (width - len(r)) for r in rows]
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_student_and_teacher_states_are_of_the_same_response_token(data):
    """Prevents: a shift by prompt length, channel order or padding side."""
    questions = data.draw(st.integers(1, 5))
    responses = [
        [100 * q + i for i in range(data.draw(st.integers(1, 6), label="response length"))] for q in range(questions)
    ]
    asked = data.draw(st.lists(st.integers(0, questions - 1), min_size=1, max_size=8))
    prompt_length = st.integers(1, 7)
    labels = pad(
        [[IGNORE_INDEX] * data.draw(prompt_length) + responses[q] for q in asked],
        data.draw(st.booleans()),
    )
    teacher_labels = pad(
        [[IGNORE_INDEX] * data.draw(prompt_length) + response for response in responses],
        data.draw(st.booleans()),
    )
    lengths = torch.tensor([len(response) for response in responses])
    where = pair_with_teacher(labels, lengths, torch.tensor(asked))
    ours = gather_response_labels(labels)
    assert torch.equal(gather_response_labels(teacher_labels)[where], ours)
    rows = response_rows(labels)
    assert [ours[rows == row].tolist() for row in range(len(asked))] == [responses[q] for q in asked]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.booleans())
def test_prompt_length_and_padding_do_not_change_what_is_gathered(prompt_lengths, left):
    """Prevents: states of padding, or of a neighbor's prompt, in the loss."""
    states = torch.arange(3.0)[:, None].repeat(1, 2)  # what predicts each of three response tokens
    width = max(prompt_lengths) + 3
    hidden = torch.full((len(prompt_lengths), width, 2), -1.0)
    labels = torch.full((len(prompt_lengths), width), IGNORE_INDEX)
    for row, length in enumerate(prompt_lengths):
        start = width - length - 3 if left else 0
        labels[row, start + length : start + length + 3] = torch.tensor([7, 8, 9])
        hidden[row, start + length - 1 : start + length + 2] = states
    assert torch.equal(gather_response_states(hidden, labels), states.repeat(len(prompt_lengths), 1))
