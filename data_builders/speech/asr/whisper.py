"""Whisper by the pipeline of transformers: transcribes any speech.

Any `automatic-speech-recognition` model of the Hub works; the recipes use openai/whisper-large-v3-turbo.
"""

from typing import ClassVar

import numpy as np
import torch
from transformers import pipeline

from data_builders.arguments import VerificationArguments
from data_builders.pretrained import WEIGHTS_ONLY
from data_builders.schema import SPEECH_RATE_HZ

BATCH_SIZE = 16
WINDOW_SECONDS = 30


class WhisperRecognizer:
    """One model in memory, on the GPU where there is one."""

    name = "whisper"
    set_size: ClassVar[int | None] = None  # transcribes freely
    english_only: ClassVar[bool] = False

    def __init__(self, model: str, language: str = "en") -> None:
        on_gpu = torch.cuda.is_available()
        self._pipeline = pipeline(
            "automatic-speech-recognition",
            model=model,
            device=0 if on_gpu else -1,
            dtype=torch.float16 if on_gpu else torch.float32,
            trust_remote_code=False,
            model_kwargs=dict(WEIGHTS_ONLY),
        )
        # English-only checkpoints (*.en) refuse both options.
        config = self._pipeline.model.generation_config.to_dict()
        multilingual = config.get("is_multilingual", "lang_to_id" in config)
        if not multilingual and language != "en":
            raise ValueError(f"recognizer_model {model} knows English alone, and language is {language!r}")
        self._generate = {"language": language, "task": "transcribe"} if multilingual else {}

    @classmethod
    def from_arguments(cls, arguments: VerificationArguments, language: str) -> "WhisperRecognizer":
        return cls(arguments.recognizer_model, language)

    def transcribe(self, clips: list[np.ndarray], allowed_sentences: list[str]) -> list[str]:
        """Return a transcript of each clip (n,) at 16 kHz; `allowed_sentences` are not used."""
        transcripts = self._pipeline(
            [{"raw": clip, "sampling_rate": SPEECH_RATE_HZ} for clip in clips],
            batch_size=BATCH_SIZE,
            generate_kwargs=self._generate,
            # Beyond its 30 s window Whisper advances by timestamps.
            return_timestamps=max(map(len, clips)) > WINDOW_SECONDS * SPEECH_RATE_HZ,
        )
        return [transcript["text"].strip() for transcript in transcripts]

    def close(self) -> None:
        del self._pipeline
