"""Qwen2.5-Omni as a student: the thinker alone, prompted through its own chat template, audio tower frozen.

Loads from a published repository (whose talker and token2wav are left on disk) or from a saved thinker; the vision
tower (0.7 billion parameters) is not kept in memory. Only the tokenizer, the chat template and the Whisper-style
feature extractor are used: the family's processor would also want torchvision for videos and pads every clip to 300 s.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.utils import cached_file

from data_builders.chat import DEFAULT_SYSTEM
from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles
from trainer_ext.students.packed_attention import ROW_ATTENTION
from trainer_ext.students.qwen2_5_omni_names import to_memory_name
from trainer_ext.students.whisper_features import count_frames, extract_features

FULL_MODEL_TYPE = "qwen2_5_omni"
SPOKEN_RATE_HZ = 24_000
# With any other system prompt the talker may not work as expected (model card of Qwen/Qwen2.5-Omni-7B).
SPEAKING_SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)


class Qwen2_5OmniStudent:
    """How one Qwen2.5-Omni checkpoint is spoken to. Holds no weights."""

    # LoRA on the language model only: a bare "q_proj" would also hit the audio tower (and vLLM serves only these).
    lora_target_modules = (
        r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    )
    # Whole and frozen in every recipe, full fine-tuning included.
    frozen_modules = ("model.audio_tower", "model.visual")
    head_module = "lm_head"
    language_module = "model.language_model"
    unloaded_module = "model.visual"
    # Unless another one is asked for: rows are packed for the language model alone.
    attention = {"text_config": ROW_ATTENTION, "audio_config": "sdpa"}

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        extractor: WhisperFeatureExtractor,
        config: PretrainedConfig,
    ) -> None:
        self.tokenizer = tokenizer
        self.extractor = extractor
        self.config = config
        self.eos_token_id: int = tokenizer.eos_token_id

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, revision: str | None = None
    ) -> "Qwen2_5OmniStudent":
        """Tokenizer, chat template, feature extractor and thinker config of a checkpoint.

        Raises:
            ValueError: the checkpoint ships no chat template.
        """
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
        if tokenizer.chat_template is None:
            tokenizer.chat_template = read_chat_template_json(name_or_path, revision)
        extractor = WhisperFeatureExtractor.from_pretrained(name_or_path, revision=revision)
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
        return cls(tokenizer, extractor, cls.read_config(config))

    @staticmethod
    def read_config(config: PretrainedConfig) -> PretrainedConfig:
        """The thinker's part of a checkpoint's config."""
        return getattr(config, "thinker_config", config)

    @property
    def max_speech_seconds(self) -> float:
        """The longest clip the model was made for; longer ones are refused, never cut."""
        return self.extractor.chunk_length

    @property
    def vocab_size(self) -> int:
        return self.config.text_config.vocab_size

    def load_model(
        self, name_or_path: str, **from_pretrained
    ) -> Qwen2_5OmniThinkerForConditionalGeneration:
        """The thinker without its vision tower, audio tower frozen; keyword arguments go to `from_pretrained`."""
        if from_pretrained.get("attn_implementation") in (None, ROW_ATTENTION):
            from_pretrained["attn_implementation"] = self.attention
        model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            name_or_path, **from_pretrained
        )
        model.generation_config = GenerationConfig(
            eos_token_id=self.eos_token_id, pad_token_id=self.tokenizer.pad_token_id
        )
        model.set_submodule(
            self.unloaded_module, UnloadedModule(name_or_path, from_pretrained.get("revision"))
        )
        for name in self.frozen_modules:
            model.get_submodule(name).requires_grad_(False)
        model.get_submodule("model.audio_tower").register_forward_hook(detach_output)
        return model

    def load_speaking_model(
        self, name_or_path: str, **from_pretrained
    ) -> Qwen2_5OmniForConditionalGeneration:
        """The full model, talker and voices included; its thinker is a student like any other.

        Raises:
            ValueError: the checkpoint is a thinker alone.
        """
        config = AutoConfig.from_pretrained(name_or_path, revision=from_pretrained.get("revision"))
        if config.model_type != FULL_MODEL_TYPE:
            raise ValueError(
                f"{name_or_path} cannot speak: it is a thinker without a talker. Name the full model, or export one "
                "(recipes/export_omni.py --target omni)"
            )
        return Qwen2_5OmniForConditionalGeneration.from_pretrained(name_or_path, **from_pretrained)

    @torch.no_grad()
    def speak(
        self, model: Qwen2_5OmniForConditionalGeneration, inputs: dict[str, Tensor], **generate: Any
    ) -> np.ndarray:
        """The spoken answer to one question, (samples,) float32 at SPOKEN_RATE_HZ."""
        talker = model.config.talker_config
        _, samples = model.generate(
            **inputs,
            generation_mode="audio",
            talker_eos_token_id=[talker.tts_codec_pad_token_id, talker.tts_codec_end_token_id],
            **generate,
        )
        return samples.float().cpu().numpy()

    @staticmethod
    def make_empty_model(
        config: PretrainedConfig, dtype: torch.dtype = torch.float32
    ) -> Qwen2_5OmniThinkerForConditionalGeneration:
        """The thinker with weights of the right shape that take no memory, to hang adapters on."""
        with torch.device("meta"):
            model = Qwen2_5OmniThinkerForConditionalGeneration(config).to(dtype)
        model.set_attn_implementation(Qwen2_5OmniStudent.attention)
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                hollow = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
                module.register_parameter(name, nn.Parameter(hollow, requires_grad=False))
        return model

    def load_unloaded_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """What `load_model` did not keep of this model, by the names in memory: a saved student wants to be whole."""
        gap = model.get_submodule(self.unloaded_module)
        if not isinstance(gap, UnloadedModule):
            return {}
        shards = SafetensorsFiles.from_pretrained(gap.name_or_path, gap.revision)
        return {
            name: shards.read(on_disk)
            for on_disk in shards.file_of
            if (name := to_memory_name(on_disk)) and name.startswith(f"{self.unloaded_module}.")
        }

    def pack(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """Rows (B, T) as one row of their S tokens, no padding: `input_ids` (1, S) and `position_ids` (4, 1, S).

        Positions start at zero in every row, which is how any attention of transformers tells rows apart; ours is told
        by `row_lengths`. The four grids (text, time, height, width) are alike where there are no pictures: an audio
        token counts as any other.
        """
        mask = attention_mask.bool()
        positions = (mask.cumsum(dim=-1) - 1)[mask]
        return {
            "input_ids": input_ids[mask][None],
            "position_ids": positions.expand(4, 1, -1),
            "row_lengths": mask.sum(dim=-1).tolist(),
        }

    def encode_text_prompt(self, question: str, system: str) -> list[int]:
        """Token ids of the question asked in writing, up to where the answer starts."""
        return self._render([{"type": "text", "text": question}], system)

    def encode_speech_prompt(self, samples: int, system: str) -> list[int]:
        """Token ids of a question asked by a clip of so many samples, one audio token for every 40 ms.

        Raises:
            ValueError: the clip is too short to make one audio token.
        """
        length = self.count_audio_tokens(samples)
        if length < 1:
            raise ValueError(f"a clip of {samples} samples is too short: it gives no audio token")
        ids = self._render([{"type": "audio", "audio": ""}], system)
        audio = self.config.audio_token_id
        if ids.count(audio) != 1:
            raise ValueError(
                f"the chat template renders {ids.count(audio)} audio tokens (id {audio}) for one clip; expected 1"
            )
        start = ids.index(audio)
        return ids[:start] + [audio] * length + ids[start + 1 :]

    def encode_response(self, response: str) -> list[int]:
        """Token ids the loss scores: the answer and the end of the turn."""
        return [*self.tokenizer.encode(response, add_special_tokens=False), self.eos_token_id]

    def count_audio_tokens(self, samples: int) -> int:
        """Audio tokens of a clip: two convolutions' worth of halving, 25 a second (`audio_tower`'s own formula)."""
        return ((count_frames(samples, self.extractor) - 1) // 2 + 1 - 2) // 2 + 1

    def extract_features(self, clips: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """What the model's forward takes for clips, by its own names; an empty dict for no clips."""
        return extract_features(clips, self.extractor) if clips else {}

    def save_pretrained(self, folder: str) -> None:
        """Tokenizer, chat template and feature extractor, beside saved weights."""
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)

    def _render(self, content: list[dict[str, str]], system: str) -> list[int]:
        messages = [
            {"role": "system", "content": [{"type": "text", "text": system or DEFAULT_SYSTEM}]},
            {"role": "user", "content": content},
        ]
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]


def detach_output(tower: nn.Module, inputs: Any, heard: Any) -> Any:
    """What a frozen tower heard, without the graph behind it.

    Under gradient checkpointing transformers makes the first layer's output want gradients, also the tower's (it hooks
    every `get_input_embeddings`), and the whole tower would be computed again and gone back through for nothing.
    """
    return type(heard)({name: value.detach() for name, value in heard.items()})


class UnloadedModule(nn.Module):
    """Stands where the vision tower was, and knows where it is kept."""

    def __init__(self, name_or_path: str, revision: str | None) -> None:
        super().__init__()
        self.name_or_path = name_or_path
        self.revision = revision

    def forward(self, *_, **__):
        raise RuntimeError(
            "the vision tower was not loaded: the student reads and hears; load the model by transformers for pictures"
        )


def read_chat_template_json(name_or_path: str, revision: str | None) -> str:
    """The chat template of a repository that keeps it in chat_template.json, which tokenizers do not read."""
    file = cached_file(
        name_or_path,
        "chat_template.json",
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
    )
    if file is None:
        raise ValueError(
            f"{name_or_path} has no chat template: neither chat_template.jinja, chat_template.json nor the tokenizer's "
            "config holds one. Save one beside the tokenizer."
        )
    return json.loads(Path(file).read_text(encoding="utf-8"))["chat_template"]
