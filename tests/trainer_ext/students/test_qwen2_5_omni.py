"""The student family: prompts, audio tokens, and where a chat template may lie."""

import json
import shutil

import numpy as np
import pytest
import torch

from trainer_ext.students.registry import load_student_family


@pytest.mark.parametrize("samples", [1600, 4800, 5440, 16000, 16001, 48123, 160000])
def test_the_prompt_holds_as_many_audio_tokens_as_the_tower_makes(family, student, samples):
    """One too few and the model refuses the batch, hours into a run."""
    clip = np.random.default_rng(0).normal(size=samples).astype(np.float32) / 10
    inputs = family.extract_features([clip])
    ids = torch.tensor([family.encode_speech_prompt(samples, "")])
    heard = student.model.get_audio_features(**inputs, return_dict=True).last_hidden_state
    assert int((ids == family.config.audio_token_id).sum()) == len(heard)
    student(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs)


def test_a_clip_too_short_for_one_audio_token_is_refused(family):
    """Nothing would be heard, and the model would answer anyway."""
    with pytest.raises(ValueError, match="too short"):
        family.encode_speech_prompt(100, "")


def test_both_channels_read_the_same_system_prompt(family):
    """Another system prompt in one channel would be measured as a gap between the modalities."""
    text = family.tokenizer.decode(family.encode_text_prompt("What is one plus one?", "Be brief."))
    speech = family.tokenizer.decode(family.encode_speech_prompt(16000, "Be brief."))
    assert text.split("user")[0] == speech.split("user")[0]
    assert "Be brief." in text
    assert "You are a helpful assistant." in family.tokenizer.decode(
        family.encode_text_prompt("Hi", "")
    )


def test_a_chat_template_in_chat_template_json_is_found(tmp_path, lab_student):
    """Published Omni repositories keep it there; tokenizers do not read that file."""
    shutil.copytree(lab_student, tmp_path / "student")
    template = tmp_path / "student" / "chat_template.jinja"
    content = template.read_text()
    template.unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        load_student_family(str(tmp_path / "student"))
    (tmp_path / "student" / "chat_template.json").write_text(json.dumps({"chat_template": content}))
    assert load_student_family(str(tmp_path / "student")).tokenizer.chat_template == content


def test_an_unknown_family_is_refused_by_name(tmp_path):
    """A model that nobody has taught this project to prompt would be prompted wrongly."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="'llama' model"):
        load_student_family(str(tmp_path))


def test_the_frozen_tower_is_heard_once_and_never_gone_back_through(family, lab_student):
    """Checkpointing hooks the tower's first layer too, and would compute all of it again in every backward."""
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
