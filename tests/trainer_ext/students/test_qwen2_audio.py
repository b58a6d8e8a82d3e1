"""Tests of the Qwen2-Audio family against its official processor."""

import pytest
import torch
from transformers import Qwen2AudioProcessor

from tests.support.noise import make_noise
from trainer_ext.students.registry import load_student_family

SYSTEM, QUESTION = "Be brief.", "How many beeps?"


@pytest.fixture(scope="module")
def audio_family(tiny_qwen2_audio):
    return load_student_family(str(tiny_qwen2_audio))


@pytest.mark.parametrize("samples", [1600, 16000, 16001, 48123, 480000])
def test_prompts_and_features_are_those_of_the_official_processor(audio_family, tiny_qwen2_audio, samples):
    """Prevents: prompts or features that the model has never seen."""
    processor = Qwen2AudioProcessor.from_pretrained(tiny_qwen2_audio)
    clip = make_noise(samples)
    audio, text = {"type": "audio", "audio": ""}, {"type": "text", "text": QUESTION}
    asked = [
        ([text], audio_family.encode_text_prompt(QUESTION, SYSTEM)),
        ([audio], audio_family.encode_speech_prompt(samples, SYSTEM)),
        ([audio, text], audio_family.encode_audio_prompt(samples, QUESTION, SYSTEM)),
    ]
    for parts, ids in asked:
        messages = [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": parts},
        ]
        rendered = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        official = processor(text=[rendered], audio=[clip] if audio in parts else None, return_tensors="pt")
        assert official["input_ids"][0].tolist() == ids
    ours = audio_family.extract_features([clip])
    for name in ("input_features", "feature_attention_mask"):
        assert torch.equal(ours[name], official[name])


def test_a_clip_of_one_audio_token_is_refused(audio_family):
    """Prevents: a batch of single audio tokens, which the model takes for the marks of clips yet to be expanded."""
    with pytest.raises(ValueError, match="too short: it gives 1 audio tokens"):
        audio_family.encode_speech_prompt(800, "")
    assert len(audio_family.encode_speech_prompt(1200, ""))
