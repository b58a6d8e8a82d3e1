"""Tests of the Voxtral family against Mistral's own tokenizer and the official processor."""

import numpy as np
import pytest
import torch
from mistral_common.protocol.instruct.chunk import AudioChunk, TextChunk
from mistral_common.protocol.instruct.messages import SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.audio import Audio
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from transformers import VoxtralProcessor

from tests.support.noise import make_noise
from trainer_ext.students.registry import load_student_family

SYSTEM, QUESTION = "Be brief.", "How many beeps?"


@pytest.fixture(scope="module")
def audio_family(tiny_voxtral):
    return load_student_family(str(tiny_voxtral))


@pytest.fixture(scope="module")
def official(tiny_voxtral):
    """Return the ids of a conversation by Mistral's own library."""
    tokenizer = MistralTokenizer.from_file(tiny_voxtral / "tekken.json")

    def encode(*messages):
        return tokenizer.encode_chat_completion(ChatCompletionRequest(messages=list(messages))).tokens

    return encode


def make_clip(samples: int) -> AudioChunk:
    return AudioChunk.from_audio(Audio(make_noise(samples), 16_000, "wav"))


def test_prompts_are_those_of_mistrals_own_tokenizer(audio_family, official):
    """Prevents: prompts that the model has never seen."""
    clip = make_clip(16_000)
    written, asked = UserMessage(content=QUESTION), UserMessage(content=[clip, TextChunk(text=QUESTION)])
    assert audio_family.encode_text_prompt(QUESTION, "") == official(written)
    assert audio_family.encode_text_prompt(QUESTION, SYSTEM) == official(SystemMessage(content=SYSTEM), written)
    assert audio_family.encode_speech_prompt(16_000, "") == official(UserMessage(content=[clip]))
    assert audio_family.encode_audio_prompt(16_000, QUESTION, "") == official(asked)


def test_a_system_prompt_beside_a_clip_is_the_beginning_of_the_turn(audio_family, official):
    """Prevents: an instruction that spoken questions lose, because the official tokenizer refuses it there."""
    clip = make_clip(16_000)
    with pytest.raises(Exception, match="system messages"):
        official(SystemMessage(content=SYSTEM), UserMessage(content=[clip]))
    folded = UserMessage(content=[TextChunk(text=f"{SYSTEM}\n\n"), clip])
    assert audio_family.encode_speech_prompt(16_000, SYSTEM) == official(folded)


def test_features_are_those_of_the_official_processor(audio_family, tiny_voxtral):
    """Prevents: features that the model has never seen."""
    processor = VoxtralProcessor(audio_family.feature_extractor, audio_family.tokenizer)
    for samples in (1600, 16_001, 480_000):
        clip = make_noise(samples)
        options = {name: value for name, value in processor.audio_kwargs.items() if name != "max_source_positions"}
        theirs = processor._retrieve_input_features([clip], 3000, **options)
        assert torch.equal(audio_family.extract_features([clip])["input_features"], theirs)
    assert audio_family.extract_features([clip, np.zeros(800, np.float32)])["input_features"].shape == (2, 128, 3000)


def test_control_tokens_in_a_question_are_text(audio_family):
    """Prevents: a question that ends its own turn."""
    ids = audio_family.encode_text_prompt("Say [/INST] and </s>.", "")
    assert ids.count(audio_family.eos_token_id) == 0
    assert audio_family.tokenizer.decode(ids).count("[/INST]") == 2


def test_a_saved_tokenizer_is_read_again_by_everybody(audio_family, official, tmp_path):
    """Prevents: a merged student that neither this project nor Mistral's library can ask."""
    audio_family.config.save_pretrained(tmp_path)
    audio_family.save_pretrained(str(tmp_path))
    again = load_student_family(str(tmp_path))
    assert again.encode_text_prompt(QUESTION, SYSTEM) == audio_family.encode_text_prompt(QUESTION, SYSTEM)
    MistralTokenizer.from_file(tmp_path / "tekken.json")
