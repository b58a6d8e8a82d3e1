"""Qwen2-Audio as a student, prompted by its own chat template.

Its tower takes 30 s and nothing else: the official feature extractor pads shorter clips. The head has 156,032 rows; a
Qwen2 or Qwen2.5 teacher has fewer, and the loss compares those that both have.
"""

import numpy as np
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from data_builders.pretrained import load_config, naming
from trainer_ext.students.audio_tower_student import NAMES_BEFORE_5, AudioTowerStudent, merged_target
from trainer_ext.students.whisper_features import extract_padded_features

MODEL_CLASS = "Qwen2AudioForConditionalGeneration"


class Qwen2AudioStudent(AudioTowerStudent):
    """Encoder and architecture of one Qwen2-Audio checkpoint. Holds no weights."""

    loaded_class = Qwen2AudioForConditionalGeneration
    model_class = MODEL_CLASS
    card_note = "The audio tower and its projector are untouched. Clips are at most 30 seconds long."
    # One audio token would be read as the mark of a clip that is yet to be expanded.
    least_audio_tokens = 2
    checkpoint_names = NAMES_BEFORE_5
    export_targets = merged_target(MODEL_CLASS)

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "Qwen2AudioStudent":
        """Load tokenizer, chat template, feature extractor and config."""
        with naming(name_or_path):
            processor = Qwen2AudioProcessor.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
        # Where no template is saved beside the tokenizer, the processor has the one of its class.
        processor.tokenizer.chat_template = processor.chat_template
        return cls(processor.tokenizer, processor.feature_extractor, load_config(name_or_path, revision))

    def extract_features(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        """Return the features of clips (n,), padded to 30 s; an empty dict for no clips."""
        return extract_padded_features(clips, self.feature_extractor) if clips else {}
