"""Tests of grafting a speech encoder to a text LLM."""

import shutil

import pytest
import torch
from compare import compare_encoder, compare_text
from graft import graft
from thinker import load_thinker, run_layers
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, WhisperModel

from data_builders.audio import decode_speech
from data_builders.chat_encoder import ChatEncoder
from data_builders.pretrained import load_tokenizer
from tests.support.lab import TEACHER
from tests.support.nano_omni import SHAPE, save_text_model
from tests.support.tiny_whisper import save_tiny_whisper
from trainer_ext.students.registry import load_student_family

KINDS = ("llama", "llama3", "qwen2")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> str:
    return save_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module", params=KINDS)
def grafted(request, whisper, tmp_path_factory):
    """A text LLM, and the thinker that it became."""
    text = save_text_model(request.param, tmp_path_factory.mktemp(request.param))
    folder = tmp_path_factory.mktemp("grafted")
    graft(text, whisper, folder, extra_layers=2)
    return text, folder


@pytest.fixture(scope="module")
def clip(pairs):
    row = pairs["test"][0]
    return decode_speech(row["speech"], row["id"])


def test_text_logits_are_those_of_the_text_llm(grafted):
    """Prevents: a speech LLM that is worse in writing from the beginning, and a teacher that is not its original."""
    assert compare_text(*grafted) == 0.0


def test_written_questions_get_the_text_llm_s_tokens(grafted):
    """Prevents: another chat template in student and teacher, whose responses then differ for no reason."""
    text, folder = grafted
    ours, theirs = load_student_family(str(folder)), ChatEncoder(load_tokenizer(text))
    for question, system in (("What is two plus three?", "Be brief."), ("Äpfel, 東京?\nTwo <|im_end|> lines", "")):
        assert ours.encode_text_prompt(question, system) == theirs.encode_prompt(question, system)
        assert ours.encode_response(question) == theirs.encode_response(question)


def test_a_clip_is_one_run_of_audio_tokens_between_their_marks(grafted):
    """Prevents: audio tokens that the text LLM's vocabulary had for something else."""
    text, folder = grafted
    family = load_student_family(str(folder))
    prompt = family.encode_speech_prompt(16_000, "")
    config, known = family.config, len(AutoTokenizer.from_pretrained(text))
    start = prompt.index(config.audio_start_token_id)
    assert prompt[start + 1 : start + 26] == [config.audio_token_id] * 25
    assert prompt[start + 26] == config.audio_end_token_id
    assert min(config.audio_token_id, config.audio_start_token_id, config.audio_end_token_id) >= known


def test_the_tower_computes_what_whisper_computes(grafted, whisper, clip):
    """Prevents: a tower whose weights are in the wrong places, which would only show as a slow training."""
    differences = compare_encoder(whisper, grafted[1], clip)
    assert differences["same input"] < 1e-4
    assert differences["no padding"] > 1e-3  # Whisper attends to the silence behind a clip


def test_new_layers_change_nothing_at_first(grafted, clip):
    """Prevents: an encoder that is broken before its training begins."""
    family, model = load_student_family(str(grafted[1])), load_thinker(grafted[1])
    every = len(model.model.audio_tower.layers)
    features = family.extract_features([clip])
    with torch.no_grad():
        before, after = (run_layers(model, layers, features)[0] for layers in (every - 2, every))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


def test_a_published_tower_brings_its_projector(tiny_omni, tmp_path, clip):
    """Prevents: a trained projector that is replaced by a random one."""
    text = TEACHER  # as wide as the lab's student
    graft(text, str(tiny_omni), tmp_path / "grafted", extra_layers=0)
    family = load_student_family(str(tiny_omni))
    wanted = family.load_model(str(tiny_omni), dtype=torch.float32)
    found = load_thinker(tmp_path / "grafted").float()
    features = family.extract_features([clip])
    with torch.no_grad():
        torch.testing.assert_close(
            found.get_audio_features(**features).last_hidden_state,
            wanted.get_audio_features(**features).last_hidden_state,
        )


def test_another_architecture_is_refused_by_its_weights(whisper, tmp_path):
    """Prevents: a model with weights left out, which would answer nonsense."""
    Qwen3ForCausalLM(Qwen3Config(vocab_size=1000, head_dim=8, **SHAPE)).save_pretrained(tmp_path / "qwen3")
    AutoTokenizer.from_pretrained(TEACHER).save_pretrained(tmp_path / "qwen3")
    with pytest.raises(ValueError, match=r"not like a Llama or a Qwen2: .*unknown .*k_norm"):
        graft(str(tmp_path / "qwen3"), whisper, tmp_path / "grafted", extra_layers=0)


def test_a_text_llm_without_a_chat_template_is_refused(whisper, tmp_path):
    """Prevents: a base model that was never taught turns."""
    text = save_text_model("llama", tmp_path / "llama")
    (tmp_path / "llama" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template: name an instruction-tuned model"):
        graft(text, whisper, tmp_path / "grafted", extra_layers=0)


def test_positions_that_the_tower_cannot_compute_are_refused(whisper, tmp_path):
    """Prevents: a fine-tuned Whisper with learned positions, silently replaced by sinusoids."""
    model = WhisperModel.from_pretrained(whisper)
    torch.nn.init.normal_(model.encoder.embed_positions.weight)
    shutil.copytree(whisper, tmp_path / "whisper")
    model.save_pretrained(tmp_path / "whisper")
    with pytest.raises(ValueError, match="positions are no sinusoids"):
        graft(save_text_model("llama", tmp_path / "llama"), str(tmp_path / "whisper"), tmp_path / "grafted", 0)
