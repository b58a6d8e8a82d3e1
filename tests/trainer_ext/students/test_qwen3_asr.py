"""Tests of the Qwen3-ASR family against its official processor."""

import pytest
import torch
from transformers import AutoProcessor

from tests.support.noise import make_noise
from trainer_ext.students.registry import load_student_family

SYSTEM, QUESTION = "Be brief.", "How many beeps?"


@pytest.fixture(scope="module")
def asr_family(tiny_qwen3_asr):
    return load_student_family(str(tiny_qwen3_asr))


@pytest.mark.parametrize("samples", [1600, 8001, 16000, 16001, 48123, 475_000])
def test_spoken_prompts_and_features_are_those_of_the_official_processor(asr_family, tiny_qwen3_asr, samples):
    """Prevents: prompts or features that the model has never seen."""
    processor = AutoProcessor.from_pretrained(tiny_qwen3_asr)
    clip = make_noise(samples)
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "audio", "audio": ""}]},
    ]
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    official = processor(text=[rendered], audio=[clip])
    assert official["input_ids"][0].tolist() == asr_family.encode_speech_prompt(samples, SYSTEM)
    for name, value in asr_family.extract_features([clip]).items():
        assert torch.equal(value, official[name].to(value.dtype))


def test_a_clip_sounds_the_same_beside_a_longer_one(asr_family):
    """Prevents: states that depend on the other clips of a batch."""
    clip, longer = make_noise(20_001), make_noise(60_000)
    alone, both = asr_family.extract_features([clip]), asr_family.extract_features([clip, longer])
    assert both["input_features_mask"].sum(1).tolist() == [125, 375]
    assert torch.equal(alone["input_features"][0, :, :125], both["input_features"][0, :, :125])


def test_written_questions_are_rendered_although_the_published_template_leaves_them_out(asr_family, tmp_path):
    """Prevents: a text channel whose questions are all the same empty turn."""
    text = asr_family.tokenizer.decode(asr_family.encode_text_prompt(QUESTION, SYSTEM))
    turns = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert text == turns
    asr_family.save_pretrained(str(tmp_path))
    assert "part['text']" in (tmp_path / "chat_template.jinja").read_text()
