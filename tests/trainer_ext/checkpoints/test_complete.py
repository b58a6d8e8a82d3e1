"""Tests that damaged checkpoints are ignored and that a resumed run is bit-identical."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer_ext.checkpoints.complete import (
    find_corruption,
    find_last_complete_checkpoint,
    write_checksums,
)


def make_checkpoint(folder: Path, step: int) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "inner").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(range(100)))
    (checkpoint / "inner" / "state.json").write_text("{}")
    write_checksums(checkpoint)
    return checkpoint


def flip_a_bit(checkpoint: Path) -> None:
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[50] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_bit, "model.safetensors is damaged"),
        (
            lambda checkpoint: (checkpoint / "inner" / "state.json").unlink(),
            "inner/state.json is missing",
        ),
        (lambda checkpoint: (checkpoint / "checksums.json").unlink(), "its save did not finish"),
        (
            lambda checkpoint: (checkpoint / "checksums.json").write_text('{"model'),
            "its checksums.json is damaged",
        ),
    ],
)
def test_a_damaged_checkpoint_is_ignored_and_the_one_before_it_found(tmp_path, damage, words):
    """Prevents: resuming from it as the base Trainer does, with a fresh optimizer in place of the missing file."""
    older, newer = make_checkpoint(tmp_path, 9), make_checkpoint(tmp_path, 10)
    assert find_last_complete_checkpoint(tmp_path) == (newer, [])
    damage(newer)
    assert words in find_corruption(newer)
    found, skipped = find_last_complete_checkpoint(tmp_path)
    assert found == older
    assert len(skipped) == 1
    assert "checkpoint-10" in skipped[0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(make_trainer, tmp_path):
    """Prevents: losing the data order, the optimizer, the schedule or the random state on resume."""
    arguments = dict(max_steps=4, save_strategy="steps", save_steps=2, lr_scheduler_type="cosine")
    trainer = make_trainer(**arguments)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    straight = weights(tmp_path / "run" / "checkpoint-4")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")

    trainer.model.load_state_dict(start)
    again = make_trainer(**arguments)
    again.train(resume_from_checkpoint=True)
    resumed = weights(tmp_path / "run" / "checkpoint-4")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert again.state.global_step == 4


def test_no_saved_folder_has_pickled_arguments(make_trainer, tmp_path):
    """Prevents: publishing the token that training_args.bin stores in clear."""
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    assert (tmp_path / "run" / "preprocessor_config.json").is_file()


def test_old_checkpoints_are_deleted_after_the_new_one_is_complete(make_trainer, tmp_path, monkeypatch):
    """Prevents: no checkpoint at all when a save is killed after the rotation."""
    import trainer_ext.checkpoints.callback as module

    seen = []

    def look(*, output_dir, **arguments):
        folders = sorted(Path(output_dir).glob("checkpoint-*"))
        seen.append([find_corruption(folder) for folder in folders])
        return rotate(output_dir=output_dir, **arguments)

    rotate = module.rotate_checkpoints
    monkeypatch.setattr(module, "rotate_checkpoints", look)
    make_trainer(max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1).train()
    assert seen == [[None], [None, None]]
    assert [folder.name for folder in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_resuming_from_a_damaged_folder_by_name_is_refused(make_trainer, tmp_path):
    """Prevents: resuming from another folder than the one named."""
    broken = make_checkpoint(tmp_path, 3)
    flip_a_bit(broken)
    with pytest.raises(ValueError, match=r"cannot resume from .*model.safetensors is damaged"):
        make_trainer().train(resume_from_checkpoint=str(broken))
