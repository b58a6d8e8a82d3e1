"""Spoken questions: TTS engines, voice assignment and clips.

In: texts with voices. Out: FLAC clips. A new engine is one file in `tts/` and one line in `TTS_ENGINES`.
"""

import hashlib
from typing import Protocol

import numpy as np

from data_builders.arguments import SpeechArguments
from data_builders.audio import encode_speech, resample_speech
from data_builders.outcomes import Rejected, ServerUnreachable, TemporaryFailure
from data_builders.registry import load_class
from data_builders.storage.call_cache import content_key

TTS_ENGINES = {
    "espeak": "data_builders.speech.tts.espeak:EspeakEngine",
    "flite": "data_builders.speech.tts.flite:FliteEngine",
    "server": "data_builders.speech.tts.server:ServerEngine",
    "pocket": "data_builders.speech.tts.pocket:PocketEngine",
    "several": "data_builders.speech.tts.several:SeveralEngines",
}
STAGE = "speech"


class SpeechEngine(Protocol):
    """A text-to-speech engine."""

    name: str
    in_flight: int  # calls at a time

    @classmethod
    def from_arguments(cls, arguments: SpeechArguments) -> "SpeechEngine":
        """Load the model, start the process or connect to the server."""
        ...

    @staticmethod
    def check_voices(voices: list[str]) -> None:
        """Raise ValueError, naming the known ones, for a voice that the engine does not have, where it can know."""
        ...

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        """Return samples (n,) float32 in [-1, 1] and their rate in Hz; equal arguments give equal samples.

        Raises:
            ValueError: this text cannot be spoken in this voice, now or later.
            RuntimeError: it could not be spoken now. A full GPU is one (torch.OutOfMemoryError), so the row is reported
                and tried again by the next run.
            ServerUnreachable: nothing can be spoken now.
        """
        ...

    def close(self) -> None:
        """Free processes and memory."""
        ...


def find_engine(arguments: SpeechArguments) -> type[SpeechEngine]:
    """Return the class of the chosen engine.

    Raises:
        ValueError: `speech_engine` is not registered.
    """
    return load_class(TTS_ENGINES, arguments.speech_engine, "speech_engine")


def load_engine(arguments: SpeechArguments) -> SpeechEngine:
    """Start the chosen engine."""
    return find_engine(arguments).from_arguments(arguments)


def engine_label(arguments: SpeechArguments) -> str:
    """Return the value of the column `speech_engine`, part of a clip's key."""
    return ":".join(filter(None, [arguments.speech_engine, arguments.speech_model]))


def choose_voice(voices: list[str], question: str, recording: int) -> str:
    """Return the voice of a question's recording; recordings of one question never share a voice."""
    first = int(hashlib.sha256(question.encode()).hexdigest(), 16)
    return voices[(first + recording) % len(voices)]


def clip_key(engine: str, spoken_text: str, voice: str) -> str:
    """Return the cache key: everything a clip depends on."""
    return content_key("speech", engine, spoken_text, voice)


def synthesize_clip(engine: SpeechEngine, text: str, voice: str) -> bytes | Rejected:
    """Return a FLAC clip, or the engine's refusal.

    Raises:
        TemporaryFailure: the engine failed and may work later.
        ServerUnreachable: the engine's server does not answer.
    """
    try:
        samples, rate_hz = engine.synthesize(text, voice)
        return encode_speech(resample_speech(samples, rate_hz))
    except ValueError as error:
        return Rejected(STAGE, "not_spoken", str(error))
    except (TemporaryFailure, ServerUnreachable):
        raise
    except RuntimeError as error:
        raise TemporaryFailure(f"{engine.name} failed: {error}") from error
