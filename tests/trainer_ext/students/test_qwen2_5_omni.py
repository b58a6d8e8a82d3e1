"""Tests of the Qwen2.5-Omni family: prompts, audio tokens, chat templates."""

import json
import shutil

import numpy as np
import pytest
import torch

from trainer_ext.students.registry import load_student_family


@pytest.mark.parametrize("samples", [1600, 4800, 5440, 16000, 16001, 48123, 160000])
def test_the_prompt_has_as_many_audio_tokens_as_the_tower_makes(family, student, samples):
    """Prevents: a batch that the model refuses hours into a run."""
    clip = np.random.default_rng(0).normal(size=samples).astype(np.float32) / 10
    inputs = family.extract_features([clip])
    ids = torch.tensor([family.encode_speech_prompt(samples, "")])
    heard = student.model.get_audio_features(**inputs, return_dict=True).last_hidden_state
    assert int((ids == family.config.audio_token_id).sum()) == len(heard)
    student(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs)


def test_a_clip_too_short_for_one_audio_token_is_refused(family):
    """Prevents: an answer to a clip of which the model gets nothing."""
    with pytest.raises(ValueError, match="too short"):
        family.encode_speech_prompt(100, "")


def test_both_channels_have_the_same_system_prompt(family):
    """Prevents: measuring a difference of prompts as a modality gap."""
    text = family.tokenizer.decode(family.encode_text_prompt("What is one plus one?", "Be brief."))
    speech = family.tokenizer.decode(family.encode_speech_prompt(16000, "Be brief."))
    assert text.split("user")[0] == speech.split("user")[0]
    assert "Be brief." in text
    assert "You are a helpful assistant." in family.tokenizer.decode(family.encode_text_prompt("Hi", ""))


def test_a_chat_template_in_chat_template_json_is_found(tmp_path, lab_student):
    """Prevents: a missing template: published Omni repositories keep it in a file that tokenizers do not read."""
    shutil.copytree(lab_student, tmp_path / "student")
    template = tmp_path / "student" / "chat_template.jinja"
    content = template.read_text()
    template.unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        load_student_family(str(tmp_path / "student"))
    (tmp_path / "student" / "chat_template.json").write_text(json.dumps({"chat_template": content}))
    assert load_student_family(str(tmp_path / "student")).tokenizer.chat_template == content


def test_a_sliding_window_is_refused(family, lab_student, monkeypatch):
    """Prevents: packed rows with full attention for a model that attends to a window: states off by 4 of 5."""
    monkeypatch.setattr(family.config.get_text_config(), "use_sliding_window", True)
    with pytest.raises(ValueError, match="use_sliding_window is on"):
        family.load_model(lab_student, dtype=torch.float32)


def test_an_unknown_family_is_refused_by_name(tmp_path):
    """Prevents: wrong prompts for a model without a student family."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="unknown 'llama'"):
        load_student_family(str(tmp_path))


def test_the_frozen_tower_runs_once_and_is_not_recomputed(family, lab_student):
    """Prevents: gradient checkpointing of the frozen tower, which recomputes it in every backward."""
    model = family.load_model(lab_student, dtype=torch.float32)
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    model.train()
    heard = []
    model.model.audio_tower.layers[0].register_forward_hook(lambda *_: heard.append(1))
    inputs = family.extract_features([np.zeros(16_000, dtype=np.float32)])
    ids = torch.tensor([family.encode_speech_prompt(16_000, "")])
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs)
    output.logits.sum().backward()
    assert len(heard) == 1
    assert model.model.language_model.layers[0].mlp.up_proj.weight.grad is not None
