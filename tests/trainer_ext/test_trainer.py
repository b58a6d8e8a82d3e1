"""Tests of a training run: trained and frozen weights, logs, and errors."""

import copy
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig

from data_builders.audio import decode_speech
from trainer_ext.checkpoints.complete import find_corruption
from trainer_ext.students import encode_row


def snapshot(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(before: dict[str, torch.Tensor], module) -> bool:
    return all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("lora", [True, False])
def test_teacher_and_audio_tower_stay_bit_identical(make_trainer, student, teacher, family, lora):
    """Prevents: a teacher that follows its student, or a tower that changes; both lower the loss."""
    peft_config = LoraConfig(target_modules=family.lora_target_modules) if lora else None
    frozen = [teacher.model, *(student.get_submodule(name) for name in family.frozen_modules)]
    before = [snapshot(module) for module in frozen]
    language = snapshot(student.model.language_model)
    trainer = make_trainer(peft_config=peft_config, max_steps=3, weight_decay=0.1)
    trainer.train()
    assert all(same(was, module) for was, module in zip(before, frozen, strict=True))
    if lora:
        trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert trained
        assert all("language_model" in name and "lora_" in name for name in trained)
    else:
        assert not same(language, student.model.language_model)


def test_one_batch_can_be_overfitted(make_trainer, pairs):
    """Prevents: a model that is not trained although its loss falls a little."""
    trainer = make_trainer(train_dataset=pairs["train"].select(range(4)), max_steps=25)
    trainer.train()
    last = [entry for entry in trainer.state.log_history if "s2t/ce" in entry][-1]
    assert last["s2t/ce"] < 0.1
    assert last["t2t/token_accuracy"] == 1


def test_channels_are_logged_apart_for_training_and_evaluation(make_trainer, pairs):
    """Prevents: one mean over both channels, in which speech gets worse while text gets better."""
    trainer = make_trainer(eval_dataset=pairs["test"], eval_strategy="steps", eval_steps=1, max_steps=1)
    trainer.train()
    logged = {key for entry in trainer.state.log_history for key in entry}
    for channel in ("t2t", "s2t"):
        for part in ("ce", "kl", "token_accuracy", "entropy"):
            assert {f"{channel}/{part}", f"eval_{channel}/{part}"} <= logged


def test_the_logged_parts_add_up_to_the_logged_loss(make_trainer, pairs):
    """Prevents: figures that are averaged over batches instead of tokens."""
    rows = pairs["train"].select(range(4))
    trainer = make_trainer(train_dataset=rows, max_steps=1)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert math.isclose(
        logs["loss"],
        sum((logs[f"{channel}/ce"] + 0.5 * 4 * logs[f"{channel}/kl"]) / 2 for channel in ("t2t", "s2t")),
        rel_tol=1e-3,  # the Trainer rounds what it logs
    )


@pytest.mark.parametrize("channels", [["t2t"], ["s2t"], ["t2t", "s2t"]])
def test_batches_without_speech_without_text_and_with_both_train(make_trainer, channels):
    """Prevents: an empty clip tensor, which the model refuses."""
    trainer = make_trainer(channels=channels, max_steps=1)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert {key.split("/")[0] for key in logs if "/ce" in key} == set(channels)


def test_rows_that_train_no_channel_of_the_run_are_left_out(make_trainer, pairs):
    """Prevents: empty rows of a t2t run from questions that are speech alone."""
    rows = pairs["train"].map(lambda row, i: {"channels": ["s2t"] if i else ["t2t"]}, with_indices=True)
    assert len(make_trainer(train_dataset=rows, channels=["t2t"]).train_dataset) == 1


def test_without_a_teacher_nothing_of_it_is_in_a_batch(make_trainer):
    """Prevents: ablations without KL that need the memory of a teacher."""
    trainer = make_trainer(teacher_kind="none", max_steps=1)
    trainer.train()
    assert not any(key.startswith("teacher_") for key in trainer.data_collator([trainer.train_dataset[0]]))
    assert trainer.state.log_history[0]["s2t/kl"] == 0


def test_a_nan_in_one_row_stops_the_run_with_that_rows_id(make_trainer, pairs, tmp_path, monkeypatch):
    """Prevents: the base Trainer's handling: it logs a NaN loss as 0.0, saves NaN weights and ends "successfully"."""
    rows = pairs["train"]

    def decode(cell, row_id):
        samples = decode_speech(cell, row_id)
        return samples * np.nan if row_id == rows[5]["id"] else samples

    monkeypatch.setattr(encode_row, "decode_speech", decode)  # a clip's own NaN is found before training
    trainer = make_trainer(
        train_dataset=rows,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=1,
        max_steps=6,
    )
    with pytest.raises(FloatingPointError) as caught:
        trainer.train()
    message = str(caught.value)
    assert f"s2t of row {rows[5]['id']}" in message
    assert rows[4]["id"] not in message
    assert "in step 3" in message
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert find_corruption(tmp_path / "run" / "checkpoint-2") is None


def test_weights_that_are_not_finite_are_never_saved(make_trainer, tmp_path):
    """Prevents: replacing the last good checkpoint after a gradient overflowed."""
    trainer = make_trainer(max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1)
    save = trainer._save_checkpoint

    def poison_then_save(model, trial):
        if trainer.state.global_step == 2:
            trainer.model.lm_head.weight.data[3, 3] = math.nan
        save(model, trial)

    trainer._save_checkpoint = poison_then_save
    with pytest.raises(FloatingPointError, match=r"after step 2 .*lm_head"):
        trainer.train()
    assert [folder.name for folder in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    assert find_corruption(tmp_path / "run" / "checkpoint-1") is None


def test_a_deep_copy_computes_with_its_own_weights(make_trainer):
    """Prevents: an average of weights, or a frozen copy, that answers with the trained model's."""
    trainer = make_trainer(max_steps=1)
    copied = copy.deepcopy(trainer.model)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    with torch.no_grad():
        before = trainer.compute_loss(copied, batch)
        for parameter in copied.parameters():
            parameter.mul_(1.1)
        assert not torch.equal(trainer.compute_loss(copied, batch), before)
        assert torch.equal(trainer.compute_loss(trainer.model, batch), before)


def test_forward_without_distillation_inputs_is_the_models_own(make_trainer, student, family):
    """Prevents: a changed forward in generation and evaluation."""
    plain = copy.deepcopy(student)
    ids = torch.tensor([family.encode_text_prompt("What is one plus one?", "")])
    make_trainer()
    with torch.no_grad():
        assert torch.equal(student(input_ids=ids).logits, plain(input_ids=ids).logits)
