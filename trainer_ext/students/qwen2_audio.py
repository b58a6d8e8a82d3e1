"""Qwen2-Audio as a student, prompted by its own chat template, audio tower and projector frozen.

Its tower takes 30 s and nothing else: the official feature extractor pads shorter clips. The head has 156,032 rows; a
Qwen2 or Qwen2.5 teacher has fewer, and the loss compares those that both have.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)

from data_builders.pretrained import WEIGHTS_ONLY, load_config, naming
from trainer_ext.students.audio_chat_encoder import AudioChatEncoder
from trainer_ext.students.base import ExportTarget
from trainer_ext.students.empty_weights import place_empty_weights
from trainer_ext.students.frozen_modules import freeze_modules
from trainer_ext.students.packed_attention import PACKED_ATTENTION, check_packable

MODEL_CLASS = "Qwen2AudioForConditionalGeneration"
# Names in a published checkpoint by names in memory, the longer ones first (conversion_mapping.py of transformers).
CHECKPOINT_NAMES = {
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def to_checkpoint_name(memory_name: str) -> str:
    """Return the name in a published checkpoint of a weight in memory."""
    for memory, saved in CHECKPOINT_NAMES.items():
        if memory_name.startswith(memory):
            return saved + memory_name.removeprefix(memory)
    raise ValueError(f"{memory_name} is no weight of Qwen2-Audio")


def to_memory_name(checkpoint_name: str) -> str | None:
    """Return the name in memory of a checkpoint's weight."""
    for memory, saved in CHECKPOINT_NAMES.items():
        if checkpoint_name.startswith(saved):
            return memory + checkpoint_name.removeprefix(saved)
    return None


class Qwen2AudioStudent(AudioChatEncoder):
    """Encoder and architecture of one Qwen2-Audio checkpoint. Holds no weights."""

    # LoRA on the language model only: a bare "q_proj" would also match the audio tower.
    lora_target_modules = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    frozen_modules = ("model.audio_tower", "model.multi_modal_projector")
    head_module = "lm_head"
    language_module = "model.language_model"
    unloaded_module = None
    # Default attention by config: rows are packed in the language model only.
    attention = {"text_config": PACKED_ATTENTION, "audio_config": "sdpa"}
    model_class = MODEL_CLASS
    card_note = "The audio tower and its projector are untouched. Clips are at most 30 seconds long."
    # One audio token would be read as the mark of a clip that is yet to be expanded.
    least_audio_tokens = 2
    export_targets = {
        "student": ExportTarget(
            kind="student",
            architecture=MODEL_CLASS,
            usage=f"""Text and audio in, text out.

```python
from transformers import {MODEL_CLASS}

model = {MODEL_CLASS}.from_pretrained("{{name}}")
```""",
        ),
    }
    to_memory_name = staticmethod(to_memory_name)
    to_checkpoint_name = staticmethod(to_checkpoint_name)

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "Qwen2AudioStudent":
        """Load tokenizer, chat template, feature extractor and config."""
        with naming(name_or_path):
            processor = Qwen2AudioProcessor.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
        # Where no template is saved beside the tokenizer, the processor has the one of its class.
        processor.tokenizer.chat_template = processor.chat_template
        return cls(processor.tokenizer, processor.feature_extractor, load_config(name_or_path, revision))

    @staticmethod
    def read_config(config: PretrainedConfig) -> PretrainedConfig:
        """Return the config itself."""
        return config

    def extract_features(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        """Return the features of clips (n,), padded to 30 s; an empty dict for no clips."""
        if not clips:
            return {}
        extractor = self.feature_extractor
        features = extractor(
            clips,
            sampling_rate=extractor.sampling_rate,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {
            "input_features": features["input_features"],
            "feature_attention_mask": features["attention_mask"].long(),
        }

    def load_model(self, name_or_path: str, **from_pretrained: Any) -> PreTrainedModel:
        """Load the model, audio tower and projector frozen."""
        check_packable(self.config.get_text_config())
        if from_pretrained.get("attn_implementation") in (None, PACKED_ATTENTION):
            from_pretrained["attn_implementation"] = self.attention
        with naming(name_or_path):
            model = Qwen2AudioForConditionalGeneration.from_pretrained(name_or_path, **WEIGHTS_ONLY, **from_pretrained)
        model.generation_config = GenerationConfig(
            eos_token_id=self.eos_token_id, pad_token_id=self.tokenizer.pad_token_id
        )
        freeze_modules(model, self.frozen_modules, "model.audio_tower")
        return model

    def load_unloaded_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return nothing: the whole model is in memory."""
        return {}

    @staticmethod
    def make_empty_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Build the model with zero-memory placeholder weights."""
        with torch.device("meta"):
            model = Qwen2AudioForConditionalGeneration(config).to(dtype)
        model.set_attn_implementation(Qwen2AudioStudent.attention)
        return place_empty_weights(model)

    @staticmethod
    def packed_inputs(positions: Tensor, row_lengths: list[int]) -> dict[str, Any]:
        """Return `position_ids` (1, S), which start at zero in every row, and `row_lengths`."""
        return {"position_ids": positions[None], "row_lengths": row_lengths}
