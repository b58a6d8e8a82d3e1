"""Attacks by disks: full in the middle of every kind of write, read-only, missing, with odd names."""

import copy
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from peft import LoraConfig

from data_builders.pairs import build_pairs, load_pairs
from data_builders.storage.atomic import SUFFIX
from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.attacks import SCALE
from tests.support.run_script import run_script
from tests.support.small_disk import SmallDisk
from tests.support.soft_targets import make_soft_targets
from trainer_ext.checkpoints.complete import find_corruption
from trainer_ext.command_line import describe
from trainer_ext.evaluation.held_out import HeldOut
from trainer_ext.loading.adapter import load_adapter

ODD_NAME = "out [1] ü*"


@pytest.fixture
def disk(tmp_path):
    with SmallDisk(tmp_path / "disk") as mounted:
        yield mounted


def list_leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(SUFFIX)]


def check_message(caught: pytest.ExceptionInfo, folder: Path) -> None:
    """Check that an error is one line with place and free space."""
    line = describe(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    assert "MB free)" in line


@pytest.mark.parametrize("left_bytes", [0, 100_000, 300_000])
def test_a_checkpoint_on_a_full_disk(make_trainer, family, disk, left_bytes):
    """Prevents: a traceback of an archive writer, the loss of the last good checkpoint, leftovers on a full disk."""
    start = family.load_model(family.config._name_or_path)
    output = disk.folder / ODD_NAME
    settings = dict(save_strategy="steps", save_steps=1, save_total_limit=1, max_steps=3, output_dir=str(output))

    def make():
        config = LoraConfig(target_modules=family.lora_target_modules)
        return make_trainer(model=copy.deepcopy(start), peft_config=config, **settings)

    make().train()
    last = output / "checkpoint-3"
    shutil.copytree(last, output / "checkpoint-1")
    shutil.rmtree(last)
    (output / "checkpoint-1").rename(last)
    disk.fill(left_bytes)
    settings["max_steps"] = 4
    trainer = make()
    trainer.identity["lr_scheduler.max_steps"] = None
    with pytest.raises(OSError, match="No space left on device") as caught:
        trainer.train()
    check_message(caught, output)
    assert find_corruption(last) is None
    assert not list_leftovers(output)
    disk.free()
    again = make()
    again.train()
    again.save_model()
    assert load_adapter(family.load_model(family.config._name_or_path), str(output))


@pytest.mark.parametrize("left_bytes", [0, 200_000])
def test_the_last_save_on_a_full_disk(make_trainer, family, disk, left_bytes):
    """Prevents: a half-written adapter over a good one."""
    output = disk.folder / ODD_NAME
    trainer = make_trainer(
        peft_config=LoraConfig(target_modules=family.lora_target_modules), max_steps=1, output_dir=str(output)
    )
    trainer.train()
    trainer.save_model()
    good = {file.name: file.read_bytes() for file in output.iterdir() if file.is_file()}
    disk.fill(left_bytes)
    with pytest.raises(OSError) as caught:
        trainer.save_model()
    check_message(caught, output)
    assert {file.name: file.read_bytes() for file in output.iterdir() if file.is_file()} == good
    assert not list_leftovers(output)
    disk.free()
    trainer.save_model()


def test_a_report_on_a_full_disk(pairs, student, family, disk):
    """Prevents: scores that are lost, or half a report, because the pictures filled the disk."""
    output = disk.folder / ODD_NAME
    held_out = HeldOut(pairs["test"].select(range(4)), "exact_answer", 8, output, 0)
    for label in ("before", "after"):
        held_out.ask(label, student.eval(), family, {"weights": label})
    for left_bytes in (0, 4_000, 20_000):
        disk.fill(left_bytes)
        with pytest.raises(OSError) as caught:
            held_out.report()
        assert "No space left on device" in describe(caught.value)
        assert not list_leftovers(output)
    disk.free()
    assert held_out.report()["scores"]


@pytest.mark.parametrize(
    "left_bytes", [0, 300_000, 1_500_000, *(random.Random(i).randrange(2_500_000) for i in range(4 * SCALE - 4))]
)
def test_a_build_on_a_full_disk(data_arguments, teacher_settings, disk, left_bytes):
    """Prevents: a traceback of SQLite or Arrow, and finished clips that are made again."""
    arguments = replace(data_arguments, cache_dir=str(disk.folder / ODD_NAME))
    disk.fill(left_bytes)
    with pytest.raises((OSError, ValueError)) as caught:
        build_pairs(arguments, teacher_settings)
    assert "\n" not in describe(caught.value)
    assert str(disk.folder) in describe(caught.value)
    disk.free()
    folder = build_pairs(arguments, teacher_settings)
    assert len(load_pairs(arguments, teacher_settings)["train"]) == 31
    assert not list_leftovers(disk.folder)
    assert load_dataset_folder(str(folder))


def test_soft_targets_on_a_full_disk(pairs, teacher, family, disk):
    """Prevents: an hour of scoring lost, or a table without its end."""
    output = disk.folder / ODD_NAME
    for left_bytes in (0, 60_000, 400_000):
        disk.fill(left_bytes)
        with pytest.raises((OSError, ValueError)) as caught:
            make_soft_targets(output, pairs, teacher, family.vocab_size)
        assert "\n" not in describe(caught.value)
        assert not output.exists()
        assert not list_leftovers(disk.folder)
    disk.free()
    make_soft_targets(output, pairs, teacher, family.vocab_size)
    assert output.is_dir()


@pytest.mark.parametrize("recipe", ["s2t_t2t.py", "build_data.py", "cache_teacher.py"])
def test_a_read_only_or_missing_place_is_named_before_any_work(recipe, disk, monkeypatch, capsys):
    """Prevents: hours of work that cannot be written."""
    disk.remount("ro")
    (disk.folder.parent / "file").write_text("")
    for place in (disk.folder / "a b" / "ü", disk.folder.parent / "file" / "x"):
        option = "soft_targets_path" if recipe == "cache_teacher.py" else "output_dir"
        words = [f"--{option}", str(place), "--cache_dir", str(disk.folder.parent / "cache")]
        _, error = run_script(recipe, words, monkeypatch, capsys)
        assert f"{place} cannot be written" in error
        assert len(error.strip().splitlines()) == 1
        assert not (disk.folder.parent / "cache" / "calls").exists()
    disk.remount("rw")
