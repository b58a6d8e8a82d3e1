"""Prompts of a student whose chat template renders one audio token per clip and whose tower reads Whisper's frames."""

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
    least_audio_tokens = 1  # of a clip

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

    @property
    def max_speech_seconds(self) -> float:
        """Longest clip the model was made for."""
        return self.feature_extractor.chunk_length

    @property
    def vocab_size(self) -> int:
        return self.config.text_config.vocab_size

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
        {"role": "user", "content": [*question]},
    ]
