"""Prompts of a student whose chat template renders one audio token per clip and whose tower reads Whisper's frames."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase, WhisperFeatureExtractor

from data_builders.chat_encoder import QUESTION_SLOT, SYSTEM_SLOT, PromptTemplate, TextTokenizer
from trainer_ext.students.whisper_features import count_frames, extract_features

MEL_BYTES_PER_SECOND = 100 * 128 * 4  # frames, mel bins, float32


class AudioChatEncoder:
    """A `StudentEncoder` of tokenizer, chat template and feature extractor. Holds no weights."""

    audio_tokens_per_second = 25.0  # frames of 10 ms, two reductions by two
    feature_bytes_per_second = MEL_BYTES_PER_SECOND
    padded_clip_seconds: float | None = None
    least_audio_tokens = 1  # of a clip
    has_default_system = True

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
        self._prompts = self._make_prompts(make_messages)
        self._prompts_alone = self._prompts if self.has_default_system else self._make_prompts(make_turn)

    def _make_prompts(self, make: Callable[..., list[dict[str, Any]]]) -> dict[str, PromptTemplate]:
        """Return the rendered conversations of each channel."""
        written, spoken = {"type": "text", "text": QUESTION_SLOT}, {"type": "audio", "audio": ""}
        parts = {"t2t": (written,), "s2t": (spoken,), "a2t": (spoken, written)}
        return {
            channel: PromptTemplate(self.tokenizer, self._text, make(*question)) for channel, question in parts.items()
        }

    def _encode_prompt(self, channel: str, question: str, system: str) -> list[int]:
        """Return the token ids of a prompt with one audio token, where it has a clip."""
        prompts = self._prompts if system else self._prompts_alone
        return prompts[channel].encode(question, system)

    @property
    def max_speech_seconds(self) -> float:
        """Longest clip the model was made for."""
        return self.feature_extractor.chunk_length

    @property
    def vocab_size(self) -> int:
        return self.config.text_config.vocab_size

    def encode_text_prompt(self, question: str, system: str) -> list[int]:
        """Return the token ids of a written question, up to the first token of the response."""
        return self._encode_prompt("t2t", question, system)

    def encode_speech_prompt(self, samples: int, system: str) -> list[int]:
        """Return the token ids of a question spoken in so many samples, with the audio tokens of its clip.

        Raises:
            ValueError: the clip is too short for one audio token.
        """
        return self._lengthen_audio(self._encode_prompt("s2t", "", system), samples)

    def encode_audio_prompt(self, samples: int, question: str, system: str) -> list[int]:
        """Return the token ids of a clip and a written question about it; see `encode_speech_prompt`."""
        return self._lengthen_audio(self._encode_prompt("a2t", question, system), samples)

    def _lengthen_audio(self, ids: list[int], samples: int) -> list[int]:
        """Repeat a prompt's one audio token, as often as its clip has some."""
        length = self.count_audio_tokens(samples)
        if length < self.least_audio_tokens:
            raise ValueError(
                f"a clip of {samples} samples is too short: it gives {max(length, 0)} audio tokens, and the model "
                f"needs {self.least_audio_tokens}"
            )
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


def make_messages(*question: dict[str, str]) -> list[dict[str, Any]]:
    """Return a question's parts, written or spoken, as messages for the family's chat template."""
    return [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM_SLOT}]},
        *make_turn(*question),
    ]


def make_turn(*question: dict[str, str]) -> list[dict[str, Any]]:
    """Return a question's parts as messages without a system prompt."""
    return [{"role": "user", "content": [*question]}]
