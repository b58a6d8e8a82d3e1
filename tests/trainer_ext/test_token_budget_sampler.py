"""Tests of micro-batches with a bounded number of tokens."""

import collections

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_ext.memory.from_trainer import measure_longest
from trainer_ext.token_budget_sampler import TokenBudgetSampler, check_budget, fill_batches

LENGTHS = [(n * 37) % 90 + 10 for n in range(60)]
BUDGET = 200


def count(batch, lengths=LENGTHS):
    return sum(lengths[row] for row in batch)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(100, 400), st.integers(1, 6))
def test_every_row_is_in_one_batch_and_no_batch_is_over_the_budget(lengths, budget, multiple):
    """Prevents: rows that are never trained, and a micro-batch that the card does not hold."""
    batches = fill_batches(lengths, budget, multiple, seed=0)
    assert len(batches) % multiple == 0
    assert all(batch and count(batch, lengths) <= budget for batch in batches)
    seen = collections.Counter(row for batch in batches for row in batch)
    assert set(seen) == set(range(len(lengths)))
    twice = sum(seen.values()) - len(lengths)
    assert twice == 0 or (all(len(batch) == 1 for batch in batches) and twice < multiple)


def test_batches_are_full_and_alike():
    """Prevents: steps of half the size, and short rows beside long ones, to which the teacher's are padded."""
    batches = fill_batches(LENGTHS, BUDGET, 1, seed=0)
    assert len(batches) <= 1.15 * sum(LENGTHS) / BUDGET + 1
    spreads = [max(LENGTHS[r] for r in batch) - min(LENGTHS[r] for r in batch) for batch in batches]
    assert sorted(spreads)[len(spreads) // 2] < 15


def test_processes_divide_the_rows_in_an_order_of_the_epoch():
    """Prevents: rows that two processes see, and epochs of one order."""
    epoch = [0]
    batches = fill_batches(LENGTHS, BUDGET, 4, seed=0)

    def sample(seed=3):
        return [list(TokenBudgetSampler(batches, 2, process, seed, lambda: epoch[0])) for process in range(2)]

    first = sample()
    assert sorted(row for part in first for batch in part for row in batch) == list(range(60))
    assert len(first[0]) == len(first[1]) == len(TokenBudgetSampler(batches, 2, 0, 3, lambda: 0))
    assert first == sample() != sample(seed=4)
    epoch[0] = 1
    assert first != sample()


def test_a_row_over_the_budget_is_named():
    """Prevents: a budget that is exceeded in the middle of a night."""
    with pytest.raises(ValueError, match=r"row b: it has 30 tokens.*max_batch_tokens=20.*max_length"):
        check_budget([10, 30, 20], ["a", "b", "c"], 20)
    check_budget([10, 20], ["a", "b"], 20)


def test_the_memory_is_planned_for_the_longest_batch(make_trainer):
    """Prevents: a plan for `per_device_train_batch_size`, which no longer counts."""
    planned = {budget: measure_longest(make_trainer(max_batch_tokens=budget)).tokens for budget in (300, 900)}
    assert planned[300] <= 300 < planned[900] <= 900


def test_training_sees_batches_of_the_budget(make_trainer):
    """Prevents: an argument that is accepted and does nothing."""
    trainer = make_trainer(max_batch_tokens=300, num_train_epochs=1, max_steps=-1)
    seen = []
    compute = trainer.compute_loss

    def record(model, inputs, *args, **kwargs):
        seen.append((int(torch.as_tensor(inputs["attention_mask"]).sum()), len(inputs["example_ids"])))
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = record
    trainer.train()
    assert max(tokens for tokens, _ in seen) <= 300
    assert sum(rows for _, rows in seen) == len(trainer.train_dataset)
    assert trainer.state.global_step == len(seen)


def test_another_grouping_beside_it_is_refused(make_config):
    """Prevents: an argument without effect."""
    with pytest.raises(ValueError, match="leave out train_sampling_strategy group_by_length"):
        make_config(max_batch_tokens=300, train_sampling_strategy="group_by_length")
