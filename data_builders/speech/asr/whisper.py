"""Whisper, by the pipeline of transformers: an independent ear for whatever is said.

Any `automatic-speech-recognition` model of the Hub serves; the recipes take openai/whisper-large-v3-turbo.
"""

from typing import ClassVar

import numpy as np
import torch
from transformers import pipeline

from data_builders.arguments import BuildArguments
from data_builders.schema import SPEECH_RATE_HZ

BATCH_SIZE = 16
WINDOW_SECONDS = 30


class WhisperRecogniser:
    """One model in memory, on the GPU where there is one."""

    name = "whisper"
    set_size: ClassVar[int | None] = None  # it does not need to be told what may be said

    def __init__(self, model: str) -> None:
        on_gpu = torch.cuda.is_available()
        self._pipeline = pipeline(
            "automatic-speech-recognition",
            model=model,
            device=0 if on_gpu else -1,
            dtype=torch.float16 if on_gpu else torch.float32,
        )
        # English-only checkpoints (*.en) refuse both options.
        multilingual = self._pipeline.model.generation_config.is_multilingual
        self._generate = {"language": "en", "task": "transcribe"} if multilingual else {}

    @classmethod
    def from_arguments(cls, arguments: BuildArguments) -> "WhisperRecogniser":
        return cls(arguments.recognizer_model)

    def hear(self, clips: list[np.ndarray], sentences: list[str]) -> list[str]:
        """What each clip (n,) at 16 kHz says."""
        told = self._pipeline(
            [{"raw": clip, "sampling_rate": SPEECH_RATE_HZ} for clip in clips],
            batch_size=BATCH_SIZE,
            generate_kwargs=self._generate,
            # Beyond its 30 s window Whisper goes from timestamp to timestamp.
            return_timestamps=max(map(len, clips)) > WINDOW_SECONDS * SPEECH_RATE_HZ,
        )
        return [entry["text"].strip() for entry in told]

    def close(self) -> None:
        del self._pipeline
