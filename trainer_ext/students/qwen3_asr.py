"""Qwen3-ASR as a student: a transcriber that learns to answer what it hears, from a Qwen3 that answers in writing.

The published chat template renders clips and a system prompt and leaves written questions out; where it does,
`CHAT_TEMPLATE` takes its place, which renders clips as it does and written questions as Qwen3 reads them.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

from data_builders.chat_encoder import QUESTION_SLOT, render
from data_builders.pretrained import load_config, naming
from trainer_ext.students.audio_chat_encoder import make_messages
from trainer_ext.students.audio_tower_student import AudioTowerStudent, merged_target

MODEL_CLASS = "Qwen3ASRForConditionalGeneration"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS_PER_SECOND = 13  # three convolutions halve 100 frames, rounding up
CHUNK_FRAMES = 100  # the convolutions see one chunk at a time


class Qwen3ASRStudent(AudioTowerStudent):
    """Encoder and architecture of one Qwen3-ASR checkpoint. Holds no weights."""

    loaded_class = Qwen3ASRForConditionalGeneration
    model_class = MODEL_CLASS
    card_note = (
        "The audio tower and its projector are untouched. The base model transcribes; this one answers, and its chat "
        "template renders written questions as well."
    )
    audio_tokens_per_second = float(TOKENS_PER_SECOND)
    export_targets = merged_target(MODEL_CLASS)

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "Qwen3ASRStudent":
        """Load tokenizer, chat template, feature extractor and config."""
        with naming(name_or_path):
            processor = AutoProcessor.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
        tokenizer = processor.tokenizer
        tokenizer.chat_template = processor.chat_template or CHAT_TEMPLATE
        try:
            render(tokenizer, make_messages({"type": "text", "text": QUESTION_SLOT}))
        except ValueError:  # it leaves the question out
            tokenizer.chat_template = CHAT_TEMPLATE
        return cls(tokenizer, processor.feature_extractor, load_config(name_or_path, revision))

    def count_audio_tokens(self, samples: int) -> int:
        """Return the audio tokens of a clip, 13 per second; none for one that is shorter than a token.

        The feature extractor counts half a second of a shorter clip.
        """
        extractor = self.feature_extractor
        if samples * TOKENS_PER_SECOND < extractor.sampling_rate:
            return 0
        frames = max(samples, extractor.min_length) // extractor.hop_length
        chunks, rest = divmod(frames, CHUNK_FRAMES)
        for _ in range(3):
            rest = math.ceil(rest / 2)
        return chunks * TOKENS_PER_SECOND + rest

    def extract_features(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        """Return the features of clips (n,), padded to the longest in whole seconds; an empty dict for no clips.

        Each clip is extracted alone: beside a longer one, the official processor gives it a last frame more.
        """
        if not clips:
            return {}
        extractor = self.feature_extractor
        alone = [
            extractor(
                [clip],
                sampling_rate=extractor.sampling_rate,
                padding="longest",
                return_attention_mask=True,
                return_tensors="pt",
            )
            for clip in clips
        ]
        longest = max(one["attention_mask"].shape[1] for one in alone)

        def join(name: str) -> Tensor:
            return torch.cat([F.pad(one[name], (0, longest - one[name].shape[-1])) for one in alone])

        return {"input_features": join("input_features"), "input_features_mask": join("attention_mask").long()}
