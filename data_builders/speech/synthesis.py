"""Spoken questions: every question by a TTS engine in voices that are functions of the row.

In: texts with voices. Out: FLAC clips. A new engine is one file in `tts/` and one line here.
"""

import hashlib
import importlib
from typing import Protocol

import numpy as np

from data_builders.arguments import BuildArguments
from data_builders.audio import encode_speech, resample_speech
from data_builders.clients.concurrent import ServerUnreachable, TemporaryFailure
from data_builders.storage.call_cache import content_key

TTS_ENGINES = {
    "espeak": "data_builders.speech.tts.espeak:EspeakEngine",
    "server": "data_builders.speech.tts.server:ServerEngine",
    "pocket": "data_builders.speech.tts.pocket:PocketEngine",
}
SPOKEN = b"fLaC"  # how a clip begins; anything else in a journal of clips is why there is none


class SpeechEngine(Protocol):
    """What a TTS engine offers."""

    name: str
    in_flight: int  # calls at a time

    @classmethod
    def from_arguments(cls, arguments: BuildArguments) -> "SpeechEngine":
        """Ready to speak."""
        ...

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        """Samples (n,) float32 in [-1, 1] and their rate in Hz; equal arguments give equal samples.

        Raises:
            ValueError: this text cannot be spoken in this voice, now or later.
            RuntimeError: it could not be spoken now. A full GPU is one (torch.OutOfMemoryError), so the row is reported
                and tried again by the next run.
            ServerUnreachable: nothing can be spoken now.
        """
        ...

    def close(self) -> None:
        """Let go of processes and memory."""
        ...


def load_engine(arguments: BuildArguments) -> SpeechEngine:
    """The engine that the arguments name, ready to speak."""
    module, _, attribute = find_engine(arguments).partition(":")
    return getattr(importlib.import_module(module), attribute).from_arguments(arguments)


def find_engine(arguments: BuildArguments) -> str:
    """Where that engine is, as "module:Class".

    Raises:
        ValueError: there is none of that name.
    """
    name = arguments.speech_engine
    if name not in TTS_ENGINES:
        raise ValueError(f"unknown speech engine {name!r}; known are {', '.join(TTS_ENGINES)}")
    return TTS_ENGINES[name]


def engine_label(arguments: BuildArguments) -> str:
    """What the column `speech_engine` says, and the journal distinguishes."""
    return ":".join(filter(None, [arguments.speech_engine, arguments.speech_model]))


def choose_voice(voices: list[str], question: str, take: int) -> str:
    """The voice of a question's recording number `take`: the takes of one question never share a voice."""
    first = int(hashlib.sha256(question.encode()).hexdigest(), 16)
    return voices[(first + take) % len(voices)]


def make_clip_key(engine: str, spoken: str, voice: str) -> str:
    """Everything a clip depends on."""
    return content_key("speech", engine, spoken, voice)


def speak(engine: SpeechEngine, text: str, voice: str) -> bytes:
    """Return a FLAC clip, or the engine's reason for refusing the text.

    Raises:
        TemporaryFailure: the clip may come out another time.
        ServerUnreachable: the engine's server does not answer.
    """
    try:
        samples, rate_hz = engine.synthesize(text, voice)
        if len(samples) == 0:
            raise ValueError(f"{engine.name} said nothing")
        return encode_speech(resample_speech(samples, rate_hz))
    except ValueError as error:
        return str(error).encode()
    except (TemporaryFailure, ServerUnreachable):
        raise
    except RuntimeError as error:
        raise TemporaryFailure(f"{engine.name} failed: {error}") from error
