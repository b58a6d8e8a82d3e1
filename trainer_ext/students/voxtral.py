"""Voxtral as a student, whose tokenizer is Mistral's own file `tekken.json`.

The library mistral-common renders its conversations, and refuses a system prompt beside a clip. `CHAT_TEMPLATE` renders
the others alike, and a system prompt beside a clip as the first words of the user's turn. The tower takes 30 s and
nothing else, and every clip has the tokens of 30 s.
"""

import numpy as np
from torch import Tensor
from transformers import VoxtralForConditionalGeneration, WhisperFeatureExtractor
from transformers.integrations.mistral import convert_tekken_tokenizer
from transformers.utils.hub import cached_file

from data_builders.pretrained import load_config, naming
from trainer_ext.students.audio_tower_student import NAMES_BEFORE_5, AudioTowerStudent, merged_target
from trainer_ext.students.whisper_features import extract_padded_features

MODEL_CLASS = "VoxtralForConditionalGeneration"
TOKENIZER_FILE = "tekken.json"
TOKENS_PER_CLIP = 375  # 3,000 frames, halved by a convolution, four of them to a token
SAMPLES_PER_TOKEN = 1280
CHAT_TEMPLATE = (
    "<s>{% set turn = messages[-1]['content'] %}{% set spoken = turn[0]['type'] == 'audio' %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'][0]['text'] %}"
    "{% if spoken %}[INST]{{ system }}\n\n{% else %}[SYSTEM_PROMPT]{{ system }}[/SYSTEM_PROMPT][INST]{% endif %}"
    "{% else %}[INST]{% endif %}"
    "{% for part in turn %}{% if part['type'] == 'audio' %}[BEGIN_AUDIO][AUDIO]{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}[/INST]"
)


class VoxtralStudent(AudioTowerStudent):
    """Encoder and architecture of one Voxtral checkpoint. Holds no weights."""

    loaded_class = VoxtralForConditionalGeneration
    model_class = MODEL_CLASS
    card_note = "The audio tower and its projector are untouched. Clips are at most 30 seconds long."
    audio_tokens_per_second = 12.5
    padded_clip_seconds = 30.0
    has_default_system = False
    checkpoint_names = NAMES_BEFORE_5
    export_targets = merged_target(MODEL_CLASS)

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "VoxtralStudent":
        """Load tokenizer, feature extractor and config."""
        with naming(name_or_path):
            file = cached_file(name_or_path, TOKENIZER_FILE, revision=revision)
            tokenizer = convert_tekken_tokenizer(file, chat_template=CHAT_TEMPLATE)
            extractor = WhisperFeatureExtractor.from_pretrained(name_or_path, revision=revision)
        tokenizer.name_or_path = name_or_path
        return cls(tokenizer, extractor, load_config(name_or_path, revision))

    def count_audio_tokens(self, samples: int) -> int:
        """Return the audio tokens of a clip, as many for every one; none for one that is shorter than a token."""
        return TOKENS_PER_CLIP if samples >= SAMPLES_PER_TOKEN else 0

    def extract_features(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        """Return the features of clips (n,), padded to 30 s; an empty dict for no clips."""
        if not clips:
            return {}
        return {"input_features": extract_padded_features(clips, self.feature_extractor)["input_features"]}

    def save_pretrained(self, folder: str) -> None:
        """Write the tokenizer as Mistral's file, which others read too, and the feature extractor."""
        self.tokenizer.save_pretrained(folder, save_format="mistral")
        self.feature_extractor.save_pretrained(folder)
