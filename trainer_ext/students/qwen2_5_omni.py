"""Qwen2.5-Omni as a student: the thinker alone, prompted by its own chat template, audio tower frozen.

Loads from a published repository (talker and token2wav stay on disk) or from a saved thinker; the vision tower (0.7
billion parameters) is not kept in memory. Only the tokenizer, the chat template and the Whisper-style feature extractor
are used: the family's processor would also need torchvision for videos, and pads every clip to 300 s.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from data_builders.chat_encoder import QUESTION_SLOT, SYSTEM_SLOT, PromptTemplate, TextTokenizer
from data_builders.pretrained import WEIGHTS_ONLY, load_config, load_tokenizer, naming
from data_builders.storage.json_files import read_object
from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles, find_file
from trainer_ext.students import qwen2_5_omni_names
from trainer_ext.students.empty_weights import place_empty_weights
from trainer_ext.students.packed_attention import PACKED_ATTENTION, check_packable
from trainer_ext.students.qwen2_5_omni_exports import EXPORT_TARGETS, THINKER_CLASS
from trainer_ext.students.unloaded_module import UnloadedModule
from trainer_ext.students.whisper_features import count_frames, extract_features

FULL_MODEL_TYPE = "qwen2_5_omni"
MEL_BYTES_PER_SECOND = 100 * 128 * 4  # frames, mel bins, float32


class Qwen2_5OmniStudent:
    """Encoder and architecture of one Qwen2.5-Omni checkpoint. Holds no weights."""

    # LoRA on the language model only: a bare "q_proj" would also match the audio tower.
    lora_target_modules = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    frozen_modules = ("model.audio_tower", "model.visual")
    head_module = "lm_head"
    language_module = "model.language_model"
    unloaded_module = "model.visual"
    # Default attention by config: rows are packed in the language model only.
    attention = {"text_config": PACKED_ATTENTION, "audio_config": "sdpa"}
    model_class = THINKER_CLASS
    card_note = (
        "The audio tower is untouched. The talker, where the base model has one, was not trained with the new thinker: "
        "spoken output may be worse than the base model's."
    )
    audio_tokens_per_second = 25.0
    feature_bytes_per_second = MEL_BYTES_PER_SECOND
    export_targets = EXPORT_TARGETS
    to_memory_name = staticmethod(qwen2_5_omni_names.to_memory_name)
    to_checkpoint_name = staticmethod(qwen2_5_omni_names.to_checkpoint_name)
    # With any other system prompt the talker may not work as expected (model card of Qwen/Qwen2.5-Omni-7B).
    speaking_system = (
        "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
        "visual inputs, as well as generating text and speech."
    )
    spoken_rate_hz = 24_000

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        feature_extractor: WhisperFeatureExtractor,
        config: PretrainedConfig,
    ) -> None:
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.config = config
        self.eos_token_id: int = tokenizer.eos_token_id
        self._text = TextTokenizer(tokenizer)
        written, spoken = {"type": "text", "text": QUESTION_SLOT}, {"type": "audio", "audio": ""}
        self._text_prompt = PromptTemplate(tokenizer, self._text, make_messages(written))
        self._speech_prompt = PromptTemplate(tokenizer, self._text, make_messages(spoken))
        self._audio_prompt = PromptTemplate(tokenizer, self._text, make_messages(spoken, written))

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "Qwen2_5OmniStudent":
        """Load tokenizer, chat template, feature extractor and the thinker's config.

        Raises:
            ValueError: the checkpoint has no chat template.
        """
        tokenizer = load_tokenizer(name_or_path, revision)
        if tokenizer.chat_template is None:
            tokenizer.chat_template = read_chat_template_json(name_or_path, revision)
        with naming(name_or_path):
            extractor = WhisperFeatureExtractor.from_pretrained(name_or_path, revision=revision)
            config = load_config(name_or_path, revision)
            return cls(tokenizer, extractor, cls.read_config(config))

    @staticmethod
    def read_config(config: PretrainedConfig) -> PretrainedConfig:
        """Return the thinker's part of a checkpoint's config."""
        return getattr(config, "thinker_config", config)

    @property
    def max_speech_seconds(self) -> float:
        """Longest clip the model was made for."""
        return self.feature_extractor.chunk_length

    @property
    def vocab_size(self) -> int:
        return self.config.text_config.vocab_size

    def load_model(self, name_or_path: str, **from_pretrained: Any) -> PreTrainedModel:
        """Load the thinker without its vision tower, audio tower frozen."""
        check_packable(self.config.get_text_config())
        if from_pretrained.get("attn_implementation") in (None, PACKED_ATTENTION):
            from_pretrained["attn_implementation"] = self.attention
        with naming(name_or_path):
            model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
                name_or_path, **WEIGHTS_ONLY, **from_pretrained
            )
        model.generation_config = GenerationConfig(
            eos_token_id=self.eos_token_id, pad_token_id=self.tokenizer.pad_token_id
        )
        placeholder = UnloadedModule(name_or_path, from_pretrained.get("revision"))
        model.set_submodule(self.unloaded_module, placeholder)
        for name in self.frozen_modules:
            model.get_submodule(name).requires_grad_(False)
        model.get_submodule("model.audio_tower").register_forward_hook(detach_output)
        return model

    def load_unloaded_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Read the vision tower's weights from disk, by their names in memory: a saved student is complete."""
        placeholder = model.get_submodule(self.unloaded_module)
        if not isinstance(placeholder, UnloadedModule):
            return {}
        files = SafetensorsFiles.from_pretrained(placeholder.name_or_path, placeholder.revision)
        return {
            name: files.read(saved)
            for saved in files.file_of
            if (name := self.to_memory_name(saved)) and name.startswith(f"{self.unloaded_module}.")
        }

    @staticmethod
    def make_empty_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Build the thinker with zero-memory placeholder weights."""
        with torch.device("meta"):
            model = Qwen2_5OmniThinkerForConditionalGeneration(config).to(dtype)
        model.set_attn_implementation(Qwen2_5OmniStudent.attention)
        return place_empty_weights(model)

    @staticmethod
    def packed_inputs(positions: Tensor, row_lengths: list[int]) -> dict[str, Any]:
        """Return `position_ids` (4, 1, S) and `row_lengths`.

        Positions start at zero in every row, which is how transformers' attentions tell rows apart; ours reads
        `row_lengths`. The four grids (text, time, height, width) are equal without pictures.
        """
        return {"position_ids": positions.expand(4, 1, -1), "row_lengths": row_lengths}

    def encode_text_prompt(self, question: str, system: str) -> list[int]:
        """Return the token ids of a written question, up to the first token of the response."""
        return self._text_prompt.encode(question, system)

    def encode_speech_prompt(self, samples: int, system: str) -> list[int]:
        """Return the token ids of a question spoken in so many samples, one audio token per 40 ms.

        Raises:
            ValueError: the clip is too short for one audio token.
        """
        return self._lengthen_audio(self._speech_prompt.encode(system=system), samples)

    def encode_audio_prompt(self, samples: int, question: str, system: str) -> list[int]:
        """Return the token ids of a clip and a written question about it; see `encode_speech_prompt`."""
        return self._lengthen_audio(self._audio_prompt.encode(question, system), samples)

    def _lengthen_audio(self, ids: list[int], samples: int) -> list[int]:
        """Repeat a prompt's one audio token, once per 40 ms of its clip."""
        length = self.count_audio_tokens(samples)
        if length < 1:
            raise ValueError(f"a clip of {samples} samples is too short: it gives no audio token")
        audio = self.config.audio_token_id
        if ids.count(audio) != 1:
            raise ValueError(
                f"the chat template renders {ids.count(audio)} audio tokens (id {audio}) for one clip; expected 1"
            )
        start = ids.index(audio)
        return ids[:start] + [audio] * length + ids[start + 1 :]

    def encode_response(self, response: str) -> list[int]:
        """Return the token ids that the loss scores: the answer and the end of the turn."""
        return [*self._text.encode(response), self.eos_token_id]

    def count_audio_tokens(self, samples: int) -> int:
        """Return the audio tokens of a clip: two stride-2 reductions of its frames (the audio tower's own formula)."""
        return ((count_frames(samples, self.feature_extractor) - 1) // 2 + 1 - 2) // 2 + 1

    def extract_features(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        """Return the model's audio inputs for clips (n,); an empty dict for no clips."""
        return extract_features(clips, self.feature_extractor) if clips else {}

    def save_pretrained(self, folder: str) -> None:
        """Write tokenizer, chat template and feature extractor."""
        self.tokenizer.save_pretrained(folder)
        self.feature_extractor.save_pretrained(folder)

    def load_speaking_model(self, name_or_path: str, **from_pretrained: Any) -> PreTrainedModel:
        """Load the full model, talker and voices included.

        Raises:
            ValueError: the checkpoint is a thinker alone.
        """
        config = load_config(name_or_path, from_pretrained.get("revision"))
        if config.model_type != FULL_MODEL_TYPE:
            raise ValueError(
                f"{name_or_path} cannot speak: it is a thinker without a talker. Name the full model, or export one "
                "(recipes/export_omni.py --target omni)"
            )
        with naming(name_or_path):
            return Qwen2_5OmniForConditionalGeneration.from_pretrained(name_or_path, **WEIGHTS_ONLY, **from_pretrained)

    def get_student(self, speaking_model: PreTrainedModel) -> PreTrainedModel:
        """Return the thinker of a full model."""
        return speaking_model.thinker

    def set_student(self, speaking_model: PreTrainedModel, student: nn.Module) -> None:
        """Replace the thinker of a full model."""
        speaking_model.thinker = student

    @torch.no_grad()
    def speak(
        self, model: PreTrainedModel, inputs: dict[str, Tensor], max_new_tokens: int, streamer: Any
    ) -> np.ndarray:
        """Return the spoken answer to one question, (samples,) float32; its text goes to `streamer`."""
        talker = model.config.talker_config
        _, samples = model.generate(
            **inputs,
            generation_mode="audio",
            talker_eos_token_id=[talker.tts_codec_pad_token_id, talker.tts_codec_end_token_id],
            thinker_max_new_tokens=max_new_tokens,
            thinker_streamer=streamer,
        )
        return samples.float().cpu().numpy()


def make_messages(*question: dict[str, str]) -> list[dict[str, Any]]:
    """Return a question's parts, written or spoken, as messages for the family's chat template."""
    return [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM_SLOT}]},
        {"role": "user", "content": [*question]},
    ]


def detach_output(tower: nn.Module, inputs: Any, output: Any) -> Any:
    """Return the output of a frozen tower without its graph.

    Under gradient checkpointing transformers makes the output of the first layer require gradients, also the tower's
    (it hooks every `get_input_embeddings`). The tower would be recomputed and differentiated for nothing.
    """
    return type(output)({name: value.detach() for name, value in output.items()})


def read_chat_template_json(name_or_path: str, revision: str | None) -> str:
    """Read the chat template of a repository that keeps it in chat_template.json, which tokenizers do not read."""
    file = find_file(name_or_path, "chat_template.json", revision)
    if file is None:
        raise ValueError(
            f"{name_or_path} has no chat template: neither chat_template.jinja, chat_template.json nor the tokenizer's "
            "config holds one. Save one beside the tokenizer."
        )
    return read_object(file, "download it again", chat_template=str)["chat_template"]
