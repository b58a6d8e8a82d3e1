"""A student family of a third party: a text LLM with one placeholder token per 40 ms of speech, without a tower."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, Qwen2ForCausalLM

from data_builders.chat_encoder import ChatEncoder
from trainer_ext.students.base import ExportTarget
from trainer_ext.students.empty_weights import place_empty_weights
from trainer_ext.students.packed_attention import PACKED_ATTENTION

SAMPLES_PER_TOKEN = 640


class TextOnlyStudent:
    """Qwen2 as a student."""

    lora_target_modules = r"model\.layers\..*\.(q_proj|v_proj)"
    frozen_modules = ()
    head_module = "lm_head"
    language_module = "model"
    unloaded_module = None
    model_class = "Qwen2ForCausalLM"
    card_note = "It hears nothing."
    audio_tokens_per_second = 25.0
    padded_clip_seconds: float | None = None
    feature_bytes_per_second = 0
    export_targets = {"merged": ExportTarget("student", "Load {name}.", architecture="Qwen2ForCausalLM")}

    def __init__(self, tokenizer, config) -> None:
        self.tokenizer, self.config = tokenizer, config
        self.chat = ChatEncoder(tokenizer)
        self.eos_token_id = tokenizer.eos_token_id

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "TextOnlyStudent":
        return cls(AutoTokenizer.from_pretrained(name_or_path), AutoConfig.from_pretrained(name_or_path))

    @staticmethod
    def read_config(config):
        return config

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_speech_seconds(self) -> float:
        return 30.0

    def encode_text_prompt(self, question: str, system: str) -> list[int]:
        return self.chat.encode_prompt(question, system)

    def encode_speech_prompt(self, samples: int, system: str) -> list[int]:
        length = samples // SAMPLES_PER_TOKEN
        if length < 1:
            raise ValueError(f"a clip of {samples} samples is too short: it gives no audio token")
        return self.chat.encode_prompt("." * length, system)

    def encode_audio_prompt(self, samples: int, question: str, system: str) -> list[int]:
        if samples < SAMPLES_PER_TOKEN:
            raise ValueError(f"a clip of {samples} samples is too short: it gives no audio token")
        return self.chat.encode_prompt("." * (samples // SAMPLES_PER_TOKEN) + question, system)

    def encode_response(self, response: str) -> list[int]:
        return self.chat.encode_response(response)

    def extract_features(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        return {}

    def save_pretrained(self, folder: str) -> None:
        self.tokenizer.save_pretrained(folder)

    def load_model(self, name_or_path: str, **from_pretrained: Any):
        from_pretrained["attn_implementation"] = PACKED_ATTENTION
        model = Qwen2ForCausalLM.from_pretrained(name_or_path, **from_pretrained)
        model.generation_config = GenerationConfig(eos_token_id=self.eos_token_id)
        return model

    def load_unloaded_weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {}

    @staticmethod
    def make_empty_model(config, dtype: torch.dtype = torch.float32):
        with torch.device("meta"):
            model = Qwen2ForCausalLM(config).to(dtype)
        return place_empty_weights(model)

    @staticmethod
    def packed_inputs(positions: Tensor, row_lengths: list[int]) -> dict[str, Any]:
        return {"position_ids": positions[None], "row_lengths": row_lengths}

    @staticmethod
    def to_memory_name(checkpoint_name: str) -> str | None:
        return checkpoint_name

    @staticmethod
    def to_checkpoint_name(memory_name: str) -> str:
        return memory_name


class CrossTalkStudent(TextOnlyStudent):
    """Broken: positions continue from row to row, so packed rows differ from padded ones."""

    @staticmethod
    def packed_inputs(positions: Tensor, row_lengths: list[int]) -> dict[str, Any]:
        return {"position_ids": torch.arange(len(positions))[None], "row_lengths": [len(positions)]}
