"""Tests that packed rows give the states of padded rows."""

import pytest
import torch

from trainer_ext.collator import PairCollator
from trainer_ext.loss.alignment import gather_response_states
from trainer_ext.students.distill_forward import HiddenStatesRequest, install_distill_forward


def split_batch(batch):
    """Return the model inputs of a batch, and its labels."""
    names = ("input_ids", "attention_mask", "input_features", "feature_attention_mask")
    return {name: batch[name] for name in names if name in batch}, batch["labels"]


@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
@torch.no_grad()
def test_packed_rows_equal_padded_rows(family, lab_student, pairs, padding_side, attention):
    """Prevents: rows that attend to each other, or continue each other's positions."""
    student = family.load_model(lab_student, dtype=torch.float32, attn_implementation=attention)
    collator = PairCollator(family, None)
    collator.padding_side = padding_side
    inputs, labels = split_batch(collator([pairs["train"][i] for i in range(6)]))
    padded = student.base_model(**inputs, use_cache=False).last_hidden_state
    expected = gather_response_states(padded, labels)
    install_distill_forward(student, family.packed_inputs)
    packed = student(**inputs, distill=HiddenStatesRequest(labels)).hidden_states
    assert (packed - expected).abs().max() < 1e-5 * expected.abs().max()


def test_no_padding_goes_through_the_language_model(student, family, pairs):
    """Prevents: a third more work when one batch has a question as text and as speech."""
    seen = []
    student.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape), with_kwargs=True
    )
    install_distill_forward(student, family.packed_inputs)
    inputs, labels = split_batch(PairCollator(family, None)([pairs["train"][i] for i in range(6)]))
    student(**inputs, distill=HiddenStatesRequest(labels))
    tokens = int(inputs["attention_mask"].sum())
    assert tokens < 0.8 * inputs["attention_mask"].numel()
    assert [shape[:2] for shape in seen] == [(1, tokens)]
