"""The layout that transformers gives most speech LLMs: audio_tower, language_model, lm_head, mostly with a projector.

A family of this layout is a subclass with its model class, its names on disk and what differs in its features. The
audio tower and the projector stay as they are.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from data_builders.pretrained import WEIGHTS_ONLY, naming
from trainer_ext.students.audio_chat_encoder import AudioChatEncoder
from trainer_ext.students.base import ExportTarget
from trainer_ext.students.empty_weights import place_empty_weights
from trainer_ext.students.packed_attention import PACKED_ATTENTION, check_packable

# Names in memory -> in checkpoints of before transformers 5 (its conversion_mapping.py).
NAMES_BEFORE_5 = {
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


class AudioTowerStudent(AudioChatEncoder):
    """A `StudentArchitecture` of this layout, and the encoder."""

    loaded_class: ClassVar[type[PreTrainedModel]]
    model_class: str
    # Beginnings of names in memory -> in a published checkpoint; empty where they are the same.
    checkpoint_names: ClassVar[Mapping[str, str]] = {}
    # LoRA on the language model only: a bare "q_proj" would also match the audio tower.
    lora_target_modules = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    frozen_modules: tuple[str, ...] = ("model.audio_tower", "model.multi_modal_projector")
    head_module = "lm_head"
    language_module = "model.language_model"
    unloaded_module: str | None = None
    # Default attention by config: rows are packed in the language model only.
    attention: ClassVar = {"text_config": PACKED_ATTENTION, "audio_config": "sdpa"}

    @staticmethod
    def read_config(config: PretrainedConfig) -> PretrainedConfig:
        """Return the config itself."""
        return config

    def load_model(self, name_or_path: str, **from_pretrained: Any) -> PreTrainedModel:
        """Load the model with its frozen modules frozen."""
        check_packable(self.config.get_text_config())
        if from_pretrained.get("attn_implementation") in (None, PACKED_ATTENTION):
            from_pretrained["attn_implementation"] = self.attention
        with naming(name_or_path):
            model = self.loaded_class.from_pretrained(name_or_path, **WEIGHTS_ONLY, **from_pretrained)
        model.generation_config = GenerationConfig(
            eos_token_id=self.eos_token_id, pad_token_id=self.tokenizer.pad_token_id
        )
        for name in self.frozen_modules:
            model.get_submodule(name).requires_grad_(False)
        model.get_submodule("model.audio_tower").register_forward_hook(detach_output)
        return model

    def load_unloaded_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return nothing: the whole model is in memory."""
        return {}

    @classmethod
    def make_empty_model(cls, config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Build the model with zero-memory placeholder weights."""
        with torch.device("meta"):
            model = cls.loaded_class(config).to(dtype)
        model.set_attn_implementation(cls.attention)
        return place_empty_weights(model)

    @classmethod
    def to_checkpoint_name(cls, memory_name: str) -> str:
        """Return the name in a published checkpoint of a weight in memory."""
        for memory, saved in cls.checkpoint_names.items():
            if memory_name.startswith(memory):
                return saved + memory_name.removeprefix(memory)
        if cls.checkpoint_names:
            raise ValueError(f"{memory_name} is no weight of {cls.model_class}")
        return memory_name

    @classmethod
    def to_memory_name(cls, checkpoint_name: str) -> str | None:
        """Return the name in memory of a checkpoint's weight."""
        for memory, saved in cls.checkpoint_names.items():
            if checkpoint_name.startswith(saved):
                return memory + checkpoint_name.removeprefix(saved)
        return None if cls.checkpoint_names else checkpoint_name

    @staticmethod
    def packed_inputs(positions: Tensor, row_lengths: list[int]) -> dict[str, Any]:
        """Return `position_ids` (1, S), which start at zero in every row, and `row_lengths`."""
        return {"position_ids": positions[None], "row_lengths": row_lengths}


def detach_output(tower: nn.Module, inputs: Any, output: Any) -> Any:
    """Return the output of a frozen tower without its graph.

    Under gradient checkpointing transformers makes the output of the first layer require gradients, also the tower's
    (it hooks every `get_input_embeddings`). The tower would be recomputed and differentiated for nothing.
    """
    return type(output)({name: value.detach() for name, value in output.items()})


def merged_target(model_class: str) -> dict[str, ExportTarget]:
    """Return the export of a student that transformers loads whole."""
    usage = f"""Text and audio in, text out.

```python
from transformers import {model_class}

model = {model_class}.from_pretrained("{{name}}")
```"""
    return {"student": ExportTarget(kind="student", architecture=model_class, usage=usage)}
