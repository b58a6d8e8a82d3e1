"""Tests that rows grouped by length are shown once an epoch: after a resume, and to several processes."""

import collections
import copy
import shutil

import pytest
from peft import LoraConfig

from trainer_ext.length_sampler import LengthGroupedSampler

SAMPLINGS = {
    "group_by_length": dict(train_sampling_strategy="group_by_length", per_device_train_batch_size=2),
    "max_batch_tokens": dict(max_batch_tokens=350),
}


@pytest.fixture
def make_seen(make_trainer, pairs, family, student):
    """Make a trainer with dropout that records the ids of each batch by epoch."""

    def make(**arguments):
        arguments |= dict(num_train_epochs=2, max_steps=-1, save_strategy="steps", save_steps=1)
        lora = LoraConfig(target_modules=family.lora_target_modules, lora_dropout=0.5)
        rows = pairs["train"].select(range(16))
        copied = copy.deepcopy(student)
        trainer = make_trainer(model=copied, train_dataset=rows, peft_config=lora, **arguments)
        seen = collections.defaultdict(list)
        compute = trainer.compute_loss

        def record(model, inputs, *args, **kwargs):
            seen[int(trainer.state.epoch or 0)] += inputs["example_ids"]
            return compute(model, inputs, *args, **kwargs)

        trainer.compute_loss = record
        return trainer, seen, rows

    return make


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_epoch_resumed_in_its_middle_shows_every_row_once(make_seen, tmp_path, sampling):
    """Prevents: 2 of 16 rows twice and 2 never: transformers' sampler draws anew from the global random state."""
    trainer, seen, rows = make_seen(**SAMPLINGS[sampling])
    trainer.train()
    assert [sorted(ids) for ids in seen.values()] == [sorted(rows["id"])] * 2
    assert seen[0] != seen[1]
    last = trainer.state.max_steps
    middle = last * 3 // 4
    for step in range(middle + 1, last + 1):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    resumed, again, _ = make_seen(**SAMPLINGS[sampling])
    resumed.train(resume_from_checkpoint=True)
    assert resumed.resumed_step == middle
    assert 0 < len(again[1]) < len(seen[1])
    assert seen[1][-len(again[1]) :] == again[1]


def test_the_order_depends_on_seed_and_epoch_alone():
    """Prevents: processes that divide different orders among them, because their dropout drew differently."""
    lengths = [n % 7 + 1 for n in range(40)]
    epoch = [0]
    samplers = [LengthGroupedSampler(lengths, 8, seed, lambda: epoch[0]) for seed in (3, 3, 4)]
    first, second, other = (list(sampler) for sampler in samplers)
    assert first == second != other
    assert sorted(first) == list(range(40))
    epoch[0] = 1
    assert list(samplers[0]) != first
