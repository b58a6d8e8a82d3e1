"""Tests that grouping by length shows every row once an epoch: after a resume, and to several processes."""

import collections
import copy
import shutil

import pytest
from peft import LoraConfig

from trainer_ext.length_sampler import LengthGroupedSampler

GROUPED = dict(
    train_sampling_strategy="group_by_length", per_device_train_batch_size=2, num_train_epochs=2, max_steps=-1
)


@pytest.fixture
def make_seen(make_trainer, pairs, family, student):
    """Make a trainer with dropout that records the ids of each batch by epoch."""

    def make(**arguments):
        lora = LoraConfig(target_modules=family.lora_target_modules, lora_dropout=0.5)
        rows = pairs["train"].select(range(16))
        copied = copy.deepcopy(student)
        trainer = make_trainer(model=copied, train_dataset=rows, peft_config=lora, **GROUPED, **arguments)
        seen = collections.defaultdict(list)
        compute = trainer.compute_loss

        def record(model, inputs, *args, **kwargs):
            seen[int(trainer.state.epoch or 0)] += inputs["example_ids"]
            return compute(model, inputs, *args, **kwargs)

        trainer.compute_loss = record
        return trainer, seen, rows

    return make


def test_an_epoch_resumed_in_its_middle_shows_every_row_once(make_seen, tmp_path):
    """Prevents: 2 of 16 rows twice and 2 never: transformers' sampler draws anew from the global random state."""
    trainer, seen, rows = make_seen(save_strategy="steps", save_steps=3)
    trainer.train()
    assert [sorted(ids) for ids in seen.values()] == [sorted(rows["id"])] * 2
    assert seen[0] != seen[1]
    for step in (15, 16):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")
    resumed, again, _ = make_seen(save_strategy="steps", save_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.resumed_step == 12
    assert seen[1][: 4 * 2] + again[1] == seen[1]


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
