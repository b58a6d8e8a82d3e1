"""Tests that batching, padding, accumulation and the number of processes do not change the gradient."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from tests.support.gradients import TOLERANCE, difference, gradients
from tests.support.lab import ROOT
from tests.support.one_step import take_step
from tests.support.processes import TORCHRUN, run
from trainer_ext.collator import PairCollator
from trainer_ext.token_budget_sampler import fill_batches

# The kinds of teacher differ in `gradients` above all; separate processes take half a minute each.
SEPARATE_PROCESSES = pytest.mark.parametrize(
    "trainer",
    ["model", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("self", "stored"))],
    indirect=True,
)


@pytest.fixture(params=["model", "self", "stored"])
def trainer(request, make_trainer, family, pairs):
    """Return a trainer with the same model at every call, over rows with unequal numbers of t2t and s2t."""
    # Adapters that are not zero: otherwise the KL of a student that is its own teacher is zero.
    adapters = LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False)
    return make_trainer(
        train_dataset=uneven(pairs["train"]),
        teacher_kind=request.param,
        peft_config=adapters if request.param == "self" else None,
    )


def uneven(rows):
    """Return rows of which every third trains s2t alone, as in the paper's data (22,456 t2t, 44,753 s2t)."""
    return rows.map(lambda row, i: {"channels": ["s2t"] if i % 3 == 0 else row["channels"]}, with_indices=True)


def take(trainer, *numbers):
    return [trainer.train_dataset[number] for number in numbers]


def test_the_padding_side_does_not_matter(trainer):
    """Prevents: positions counted through padding, or a gather that assumes right padding."""
    rows = take(trainer, 0, 1, 2, 3)
    right = gradients(trainer, [trainer.data_collator(rows)])
    trainer.data_collator.padding_side = "left"
    assert difference(right, gradients(trainer, [trainer.data_collator(rows)])) < TOLERANCE


def test_the_order_of_rows_does_not_matter(trainer):
    """Prevents: a teacher row of a neighbor's question."""
    there = gradients(trainer, [trainer.data_collator(take(trainer, 0, 1, 2, 3))])
    back = gradients(trainer, [trainer.data_collator(take(trainer, 3, 1, 0, 2))])
    assert difference(there, back) < TOLERANCE


def test_a_long_prompt_beside_it_does_not_change_a_row(trainer):
    """Prevents: states shifted by the padding for a neighbor's system prompt."""
    short, other = take(trainer, 1, 2)
    long = {**other, "system": "You are a patient teacher. " * 20}
    together = gradients(trainer, [trainer.data_collator([short, long])])
    apart = gradients(trainer, [trainer.data_collator([short]), trainer.data_collator([long])])
    assert difference(together, apart) < TOLERANCE


def test_one_batch_equals_its_accumulated_parts(trainer):
    """Prevents: a mean per micro-batch, which weighs short answers more (an update 5 times too large was measured
    elsewhere).
    """
    rows = take(trainer, 0, 1, 2, 3, 4, 5)
    whole = gradients(trainer, [trainer.data_collator(rows)])
    for split in ([1, 1, 1, 1, 1, 1], [2, 4], [5, 1]):
        parts, start = [], 0
        for size in split:
            parts.append(trainer.data_collator(rows[start : start + size]))
            start += size
        assert difference(whole, gradients(trainer, parts)) < TOLERANCE


def test_pairs_in_one_batch_equal_two_passes_by_channel(trainer):
    """Prevents: another loss when the rows of a pair share one teacher pass."""
    rows = take(trainer, 0, 1, 2, 3)
    passes = []
    for channel in ("t2t", "s2t"):
        collator = PairCollator(trainer.family, trainer.teacher.encoder, (channel,))
        passes.append(collator([row for row in rows if channel in row["channels"]]))
    together = gradients(trainer, [trainer.data_collator(rows)])
    assert difference(together, gradients(trainer, passes)) < TOLERANCE


@pytest.fixture
def run_step(trainer, soft_targets, tmp_path):
    """Return a function that takes one optimizer step with the trainer's rows and kind of teacher."""
    trainer.train_dataset.save_to_disk(str(tmp_path / "rows"))
    shared = {
        "dataset": str(tmp_path / "rows"),
        "soft_targets": str(soft_targets),
        "teacher_kind": trainer.args.teacher_kind,
    }
    return lambda folder, processes, **arguments: run_one_step(folder, processes, **shared, **arguments)


def run_one_step(folder: Path, processes: int, **arguments) -> dict[str, torch.Tensor]:
    """Return the gradients of one optimizer step, by this process or by several over gloo."""
    settings = {"output": str(folder / f"{processes}.safetensors"), **arguments}
    if processes == 1:
        take_step(**settings)
    else:
        run([*TORCHRUN, str(processes), str(ROOT / "tests" / "support" / "one_step.py"), json.dumps(settings)])
    return load_file(settings["output"])


@SEPARATE_PROCESSES
def test_two_processes_equal_one_with_the_doubled_batch(run_step, tmp_path):
    """Prevents: halved steps: DDP averages gradients while the loss sums over the global batch. The processes get
    unlike numbers of rows of each channel.
    """
    one = run_step(tmp_path, processes=1, per_device_train_batch_size=4)
    two = run_step(tmp_path, processes=2, per_device_train_batch_size=2)
    assert difference(one, two) < TOLERANCE


@SEPARATE_PROCESSES
def test_the_trainers_own_accumulation_equals_the_larger_batch(run_step, tmp_path):
    """Prevents: a wrong count of, or division by, `num_items_in_batch` in the Trainer's loop."""
    seen = []
    for size, accumulation in ((4, 1), (1, 4)):
        folder = tmp_path / str(size)
        folder.mkdir()
        step = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        seen.append(run_step(folder, processes=1, **step))
    assert difference(*seen) < TOLERANCE


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("trainer", ["model"], indirect=True)
def test_batches_of_bounded_tokens_equal_one_batch_of_the_same_rows(trainer, run_step, tmp_path, processes):
    """Prevents: short rows that weigh more than long ones, because more of them fit a batch."""
    lengths = trainer.checked_rows.lengths
    budget = 2 * max(lengths)
    batches = fill_batches(lengths, budget, processes, seed=0)
    assert len({len(batch) for batch in batches}) > 1
    seen = []
    for count, arguments in (
        (1, {"per_device_train_batch_size": len(lengths)}),
        (
            processes,
            {
                "max_batch_tokens": budget,
                "gradient_accumulation_steps": len(batches) // processes,
                "train_sampling_strategy": "random",
            },
        ),
    ):
        (tmp_path / str(len(seen))).mkdir()
        seen.append(run_step(tmp_path / str(len(seen)), processes=count, **arguments))
    assert difference(*seen) < TOLERANCE
