"""Kyutai's Pocket TTS: 100 million parameters, runs on a CPU, clones a voice from a clip.

`pip install -e ".[pocket]"`; weights come from the Hub. A voice is a name ("alba"), or a clip's path or URL. The model
samples with a seed that is a function of text and voice, so equal calls give equal clips up to the last bit.
"""

from pathlib import Path

import numpy as np
import torch

from data_builders.arguments import SpeechArguments
from data_builders.storage.call_cache import content_key

DEFAULT_MODEL = "english"


class PocketEngine:
    """One model in memory; one call at a time, on all cores.

    Args:
        model: a language of the package, or the path of a YAML config.
    """

    name = "pocket"
    in_flight = 1

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        from pocket_tts import TTSModel

        own = model.endswith((".yaml", ".yml"))
        self._model = TTSModel.load_model(**{"config" if own else "language": model})
        self._voices: dict[str, object] = {}

    @classmethod
    def from_arguments(cls, arguments: SpeechArguments) -> "PocketEngine":
        return cls(arguments.speech_model or DEFAULT_MODEL)

    @staticmethod
    def check_voices(voices: list[str]) -> None:
        """Raise ValueError for a clip that does not exist; names are looked up by the package."""
        for voice in voices:
            if Path(voice).suffix and "://" not in voice and not Path(voice).is_file():
                raise ValueError(f"voice {voice!r}: there is no such file")

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        """Synthesize `text`; see `SpeechEngine`."""
        if not text.strip():
            raise ValueError("cannot speak an empty text")
        if voice not in self._voices:
            self._voices[voice] = self._model.get_state_for_audio_prompt(voice, truncate=True)
        with torch.random.fork_rng():
            torch.manual_seed(int(content_key(text, voice)[:15], 16))
            samples = self._model.generate_audio(self._voices[voice], text)
        return samples.float().cpu().numpy(), self._model.sample_rate

    def close(self) -> None:
        self._voices.clear()
