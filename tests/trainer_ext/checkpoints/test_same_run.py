"""Tests that a run resumes from its own whole checkpoints alone."""

import copy
import io
import json
import shutil

import pytest
import soundfile
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from tests.support.bad_clips import make_wav
from trainer_ext.checkpoints.complete import find_corruption, write_checksums
from trainer_ext.checkpoints.identity import read_identity
from trainer_ext.checkpoints.output_dir import LOCK, claim_output_dir, replace_earlier_run
from trainer_ext.resumable_trainer import seconds_per_step

TWO_SAVES = dict(max_steps=4, save_strategy="steps", save_steps=2, lr_scheduler_type="cosine")


@pytest.fixture
def trained(make_trainer, tmp_path):
    """Train four steps with two saves; returns a function that makes the same trainer from the same weights."""
    first = make_trainer(**TWO_SAVES)
    start = {name: value.clone() for name, value in first.model.state_dict().items()}
    first.train()

    def again(**changes):
        first.model.load_state_dict(start)
        return make_trainer(**{**TWO_SAVES, **changes})

    return again


def test_the_last_checkpoint_is_loaded_and_nothing_is_trained(trained, tmp_path):
    """Prevents: step 9 of 8, and then 10, with other weights each time."""
    saved = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    trainer = trained()
    output = trainer.train(resume_from_checkpoint=True)
    assert (output.global_step, trainer.state.global_step) == (4, 4)
    assert len(trainer.state.log_history) == 4
    trainer.save_model()
    resaved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(saved[name], resaved[name]) for name in saved)
    assert not (tmp_path / "run" / "checkpoint-5").exists()
    assert seconds_per_step(trainer) == 0.0


def test_time_per_step_counts_the_steps_of_this_process(trained, tmp_path):
    """Prevents: a resumed run that looks twice as fast as it is."""
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    trainer = trained()
    trainer.train(resume_from_checkpoint=True)
    runtime = next(entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry)
    assert seconds_per_step(trainer) == pytest.approx(runtime / 2)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"learning_rate": 2e-3}, "learning_rate is 0.001 there and 0.002 here"),
        ({"seed": 1}, "seed is 42 there and 1 here"),
        ({"temperature": 3.0}, "temperature is 2.0 there and 3.0 here"),
        ({"channels": ["t2t"]}, "channels is"),
        ({"max_steps": 6}, "max_steps is 4 there and 6 here"),
        ({"teacher_kind": "none"}, "teacher is missing here"),
    ],
)
def test_a_checkpoint_of_other_arguments_is_refused_by_their_names(trained, changes, key):
    """Prevents: a new run that goes on from another run's checkpoint, with its learning rate, without a word."""
    with pytest.raises(ValueError, match=rf"checkpoint-4 is of another run: .*{key}"):
        trained(**changes).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_other_rows_student_or_adapter_is_refused(trained, pairs, student, family, tmp_path):
    """Prevents: going on with another data set, student or rank; a rank would be a wall of size mismatches."""
    rows = pairs["train"].map(lambda row, i: {"teacher_response": "No."} if i == 2 else {}, with_indices=True)
    with pytest.raises(ValueError, match="training rows is "):
        trained(train_dataset=rows).train(resume_from_checkpoint=True)
    changed = copy.deepcopy(student)
    with torch.no_grad():
        changed.lm_head.weight += 1e-3
    with pytest.raises(ValueError, match="student weights is "):
        trained(model=changed).train(resume_from_checkpoint=True)
    lora = LoraConfig(target_modules=family.lora_target_modules, r=4)
    with pytest.raises(ValueError, match="lora is missing there"):
        trained(peft_config=lora).train(resume_from_checkpoint=True)


def test_other_clips_of_the_same_size_are_another_data_set(trained, pairs):
    """Prevents: going on with the clips of another voice, recorded to files of the same length."""

    def turn(row):
        samples, rate_hz = soundfile.read(io.BytesIO(row["speech"]["bytes"]))
        return {"speech": {"bytes": make_wav(-samples, rate_hz), "path": None}}

    with pytest.raises(ValueError, match="training rows is "):
        trained(train_dataset=pairs["train"].map(turn)).train(resume_from_checkpoint=True)


def test_a_run_without_checkpoints_is_not_replaced_by_another_one(make_trainer, student):
    """Prevents: --resume_from_checkpoint true, given always, that overwrites the adapter of another run."""
    make_trainer(model=copy.deepcopy(student), max_steps=1).train()
    with pytest.raises(ValueError, match="is of another run: learning_rate"):
        make_trainer(model=copy.deepcopy(student), max_steps=1, learning_rate=0.1).train(resume_from_checkpoint=True)
    make_trainer(model=copy.deepcopy(student), max_steps=1).train(resume_from_checkpoint=True)


def test_a_finished_run_in_a_renamed_folder_finds_its_best_checkpoint(make_trainer, pairs, student, tmp_path):
    """Prevents: a run that cannot be reported again after its folder was moved."""
    best = dict(
        max_steps=3, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, save_total_limit=1,
        load_best_model_at_end=True, greater_is_better=True, metric_for_best_model="eval_loss", learning_rate=5e-3,
        eval_dataset=pairs["test"].select(range(4)),
    )  # fmt: skip
    first = make_trainer(model=copy.deepcopy(student), **best)
    first.train()
    (tmp_path / "run").rename(tmp_path / "moved")
    again = make_trainer(model=copy.deepcopy(student), output_dir=str(tmp_path / "moved"), **best)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(again.model.lm_head.weight, first.model.lm_head.weight)


def test_settings_without_effect_on_the_weights_may_change(trained, tmp_path):
    """Prevents: a run that cannot go on with more workers, fewer logs or another tracker."""
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    trained(save_steps=1, logging_steps=3, run_name="again", save_total_limit=2).train(resume_from_checkpoint=True)
    assert find_corruption(tmp_path / "run" / "checkpoint-4") is None


@pytest.mark.parametrize("manifest", ["[]", "7", "{}", '{"model": 7}', "[" * 100_000, "\x00", '{"../../x": "0"}'])
def test_a_manifest_of_rubbish_is_a_damaged_checkpoint(trained, tmp_path, manifest):
    """Prevents: a crash in `resume` where the older checkpoint is whole."""
    (tmp_path / "run" / "checkpoint-4" / "checksums.json").write_text(manifest)
    assert find_corruption(tmp_path / "run" / "checkpoint-4") is not None
    trainer = trained()
    trainer.train(resume_from_checkpoint=True)
    assert trainer.resumed_step == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("optimizer.pt", r"it has no optimizer\.pt"),
        ("trainer_state.json", r"it has no trainer_state\.json"),
        ("run.json", "it does not say which run it is of"),
    ],
)
def test_a_checkpoint_saved_without_a_part_is_refused(trained, tmp_path, name, message):
    """Prevents: a fresh optimizer in place of the missing one (save_only_model)."""
    checkpoint = tmp_path / "run" / "checkpoint-4"
    (checkpoint / name).unlink()
    assert name in find_corruption(checkpoint)
    write_checksums(checkpoint)
    with pytest.raises(ValueError, match=message):
        trained().train(resume_from_checkpoint=True)


def test_the_folder_of_a_run_says_which_run_it_is(trained, tmp_path):
    """Prevents: files of strangers that are taken for a run's."""
    identity = read_identity(tmp_path / "run")
    assert identity == read_identity(tmp_path / "run" / "checkpoint-4")
    assert identity["learning_rate"] == 1e-3
    assert not {"output_dir", "logging_steps", "hub_token"} & identity.keys()


def test_a_folder_with_other_files_is_refused(tmp_path):
    """Prevents: a README of somebody's that is overwritten, and notes in a checkpoint's folder that are deleted."""
    folder = tmp_path / "mine"
    claim_output_dir(str(folder), False, False)
    assert [path.name for path in folder.iterdir()] == [LOCK]
    (folder / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="holds other files: name another output_dir"):
        claim_output_dir(str(folder), False, False)
    with pytest.raises(ValueError, match="holds no run of this trainer"):
        claim_output_dir(str(folder), True, False)
    notes = folder / "checkpoint-2" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    claim_output_dir(str(folder), False, True)
    replace_earlier_run(folder)
    assert notes.read_text() == (folder / "README.md").read_text() == "mine"


def test_an_earlier_run_is_resumed_or_replaced_on_demand_alone(trained, tmp_path):
    """Prevents: a new run among an old one's checkpoints, whose last one a resume would then take."""
    folder = str(tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds an earlier run: .*--resume_from_checkpoint true"):
        claim_output_dir(folder, False, False)
    claim_output_dir(folder, True, False)
    with pytest.raises(ValueError, match="exclude each other"):
        claim_output_dir(folder, True, True)
    claim_output_dir(folder, False, True)
    assert (tmp_path / "run" / "checkpoint-4").exists()  # until the new run is loaded
    replace_earlier_run(tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    """Prevents: a night of training whose first save fails."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        claim_output_dir(str(tmp_path / "file" / "run"), False, False)


def test_saved_files_can_be_read_by_others(trained, tmp_path):
    """Prevents: an adapter of mode 0600 that a colleague or a container cannot load."""
    modes = {file.name: file.stat().st_mode & 0o077 for file in (tmp_path / "run" / "checkpoint-4").iterdir()}
    assert modes["model.safetensors"] & 0o044
    assert json.loads((tmp_path / "run" / "run.json").read_text())
