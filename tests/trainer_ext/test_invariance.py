"""The gradient belongs to the questions, not to how they were batched, padded or shared among processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from trainer_ext.collator import PairCollator
from trainer_ext.loss.alignment import IGNORE_INDEX
from trainer_ext.trainer import CrossModalDistillTrainer

TOLERANCE = 1e-5


def gradients(trainer: CrossModalDistillTrainer, batches: list[dict]) -> dict[str, torch.Tensor]:
    """What an optimizer step over these micro-batches would see."""
    trainer.model.zero_grad()
    tokens = sum(int((batch["labels"] != IGNORE_INDEX).sum()) for batch in batches)
    for batch in batches:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=tokens).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Relative distance of two gradients, all parameters together."""
    assert ours.keys() == theirs.keys()
    assert ours
    apart = torch.stack([(ours[name] - theirs[name]).norm() for name in ours]).norm()
    return float(apart / torch.stack([ours[name].norm() for name in ours]).norm())


@pytest.fixture(params=["model", "self", "stored"])
def trainer(request, make_trainer, family, pairs):
    """A trainer whose model is the same at every call, over rows with uneven numbers of t2t and s2t."""
    # Adapters that do something from the start: else a student that is its own teacher has nothing to learn from it.
    adapters = LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False)
    return make_trainer(
        train_dataset=uneven(pairs["train"]),
        teacher_kind=request.param,
        peft_config=adapters if request.param == "self" else None,
    )


def uneven(rows):
    """Every third question trains s2t alone, as in the paper's data (22,456 t2t, 44,753 s2t)."""
    return rows.map(
        lambda row, i: {"channels": ["s2t"] if i % 3 == 0 else row["channels"]}, with_indices=True
    )


def take(trainer, *numbers):
    return [trainer.train_dataset[number] for number in numbers]


def test_the_padding_side_does_not_matter(trainer):
    """Positions counted through padding, or a gather that assumes right padding."""
    rows = take(trainer, 0, 1, 2, 3)
    right = gradients(trainer, [trainer.data_collator(rows)])
    trainer.data_collator.padding_side = "left"
    assert difference(right, gradients(trainer, [trainer.data_collator(rows)])) < TOLERANCE


def test_the_order_of_rows_does_not_matter(trainer):
    """A teacher row read for its neighbor's question."""
    there = gradients(trainer, [trainer.data_collator(take(trainer, 0, 1, 2, 3))])
    back = gradients(trainer, [trainer.data_collator(take(trainer, 3, 1, 0, 2))])
    assert difference(there, back) < TOLERANCE


def test_a_long_prompt_beside_it_does_not_change_a_row(trainer):
    """A row's states shifted by the padding that its neighbor's system prompt brings."""
    short, other = take(trainer, 1, 2)
    long = {**other, "system": "You are a patient teacher. " * 20}
    together = gradients(trainer, [trainer.data_collator([short, long])])
    apart = gradients(trainer, [trainer.data_collator([short]), trainer.data_collator([long])])
    assert difference(together, apart) < TOLERANCE


def test_one_batch_equals_its_accumulated_parts(trainer):
    """A mean per micro-batch weighs short answers more: measured elsewhere as an update 5 times too large."""
    rows = take(trainer, 0, 1, 2, 3, 4, 5)
    whole = gradients(trainer, [trainer.data_collator(rows)])
    for split in ([1, 1, 1, 1, 1, 1], [2, 4], [5, 1]):
        parts, start = [], 0
        for size in split:
            parts.append(trainer.data_collator(rows[start : start + size]))
            start += size
        assert difference(whole, gradients(trainer, parts)) < TOLERANCE


def test_pairs_in_one_batch_equal_two_passes_by_channel(trainer):
    """The rows of a pair share one teacher pass; that must be a saving, not another loss."""
    rows = take(trainer, 0, 1, 2, 3)
    passes = []
    for channel in ("t2t", "s2t"):
        collator = PairCollator(trainer.family, trainer.teacher.reader, (channel,))
        passes.append(collator([row for row in rows if channel in row["channels"]]))
    together = gradients(trainer, [trainer.data_collator(rows)])
    assert difference(together, gradients(trainer, passes)) < TOLERANCE


@pytest.fixture
def run_step(trainer, soft_targets, tmp_path):
    """Takes one optimizer step of this trainer's kind of teacher and rows in processes of their own."""
    trainer.train_dataset.save_to_disk(str(tmp_path / "rows"))
    shared = {
        "dataset": str(tmp_path / "rows"),
        "soft_targets": str(soft_targets),
        "teacher_kind": trainer.args.teacher_kind,
    }
    return lambda folder, processes, **arguments: run_one_step(
        folder, processes, **shared, **arguments
    )


def run_one_step(folder: Path, processes: int, **arguments) -> dict[str, torch.Tensor]:
    """Gradients of one optimizer step in real processes of their own, over gloo when there are several."""
    settings = {
        "output": str(folder / f"{processes}.safetensors"),
        **arguments,
    }
    launcher = (
        [sys.executable]
        if processes == 1
        else ["torchrun", "--standalone", "--nproc_per_node", str(processes)]
    )
    subprocess.run(
        [
            *launcher,
            str(Path(__file__).parents[1] / "support" / "one_step.py"),
            json.dumps(settings),
        ],
        check=True,
        timeout=300,
        capture_output=True,
    )
    return load_file(settings["output"])


def test_two_processes_equal_one_with_the_doubled_batch(run_step, tmp_path):
    """DDP averages gradients while the loss is a sum over the global batch; one factor lost halves the step.

    The rows are dealt so that the two processes see unlike numbers of rows of each channel.
    """
    one = run_step(tmp_path, processes=1, per_device_train_batch_size=4)
    two = run_step(tmp_path, processes=2, per_device_train_batch_size=2)
    assert difference(one, two) < TOLERANCE


def test_the_trainers_own_accumulation_equals_the_larger_batch(run_step, tmp_path):
    """The same through the Trainer's loop: who counts `num_items_in_batch` and who divides by it."""
    seen = []
    for size, accumulation in ((4, 1), (1, 4)):
        folder = tmp_path / str(size)
        folder.mkdir()
        step = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        seen.append(run_step(folder, processes=1, **step))
    assert difference(*seen) < TOLERANCE
