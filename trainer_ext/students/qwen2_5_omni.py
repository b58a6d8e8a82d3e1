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
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from data_builders.pretrained import WEIGHTS_ONLY, load_config, load_tokenizer, naming
from data_builders.storage.json_files import read_object
from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles, find_file
from trainer_ext.students import qwen2_5_omni_names
from trainer_ext.students.audio_tower_student import AudioTowerStudent
from trainer_ext.students.qwen2_5_omni_exports import EXPORT_TARGETS, THINKER_CLASS
from trainer_ext.students.unloaded_module import UnloadedModule

FULL_MODEL_TYPE = "qwen2_5_omni"


class Qwen2_5OmniStudent(AudioTowerStudent):
    """Encoder and architecture of one Qwen2.5-Omni checkpoint. Holds no weights."""

    loaded_class = Qwen2_5OmniThinkerForConditionalGeneration
    frozen_modules = ("model.audio_tower", "model.visual")
    unloaded_module = "model.visual"
    model_class = THINKER_CLASS
    card_note = (
        "The audio tower is untouched. The talker, where the base model has one, was not trained with the new thinker: "
        "spoken output may be worse than the base model's."
    )
    export_targets = EXPORT_TARGETS
    to_memory_name = staticmethod(qwen2_5_omni_names.to_memory_name)
    to_checkpoint_name = staticmethod(qwen2_5_omni_names.to_checkpoint_name)
    # With any other system prompt the talker may not work as expected (model card of Qwen/Qwen2.5-Omni-7B).
    speaking_system = (
        "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
        "visual inputs, as well as generating text and speech."
    )
    spoken_rate_hz = 24_000

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

    def load_model(self, name_or_path: str, **from_pretrained: Any) -> PreTrainedModel:
        """Load the thinker without its vision tower, audio tower frozen."""
        model = super().load_model(name_or_path, **from_pretrained)
        placeholder = UnloadedModule(name_or_path, from_pretrained.get("revision"))
        model.set_submodule(self.unloaded_module, placeholder)
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
    def packed_inputs(positions: Tensor, row_lengths: list[int]) -> dict[str, Any]:
        """Return `position_ids` (4, 1, S) and `row_lengths`.

        Positions start at zero in every row, which is how transformers' attentions tell rows apart; ours reads
        `row_lengths`. The four grids (text, time, height, width) are equal without pictures.
        """
        return {"position_ids": positions.expand(4, 1, -1), "row_lengths": row_lengths}

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


def read_chat_template_json(name_or_path: str, revision: str | None) -> str:
    """Read the chat template of a repository that keeps it in chat_template.json, which tokenizers do not read."""
    file = find_file(name_or_path, "chat_template.json", revision)
    if file is None:
        raise ValueError(
            f"{name_or_path} has no chat template: neither chat_template.jinja, chat_template.json nor the tokenizer's "
            "config holds one. Save one beside the tokenizer."
        )
    return read_object(file, "download it again", chat_template=str)["chat_template"]
