"""Spoken questions: every question by a TTS engine in voices that are functions of the row.

In: texts with voices. Out: FLAC clips, journaled one by one. A new engine is one file in `tts/` and one line here.
"""

import hashlib
import importlib
from typing import Protocol

import numpy as np
from tqdm import tqdm

from data_builders.journal import Journal, content_key
from data_builders.schema import encode_speech, resample_speech

TTS_ENGINES = {"espeak": "data_builders.tts.espeak:EspeakEngine"}


class SpeechEngine(Protocol):
    """What a TTS engine offers."""

    name: str

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        """Samples (n,) float32 in [-1, 1] and their rate in Hz; equal arguments give equal samples."""
        ...

    def close(self) -> None:
        """Let go of processes and memory."""
        ...


def load_engine(name: str) -> SpeechEngine:
    """The engine of that name, ready to speak."""
    if name not in TTS_ENGINES:
        raise ValueError(f"unknown speech engine {name!r}; known are {', '.join(TTS_ENGINES)}")
    module, _, attribute = TTS_ENGINES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()


def choose_voice(voices: list[str], question: str, take: int) -> str:
    """The voice of a question's recording number `take`: the takes of one question never share a voice."""
    first = int(hashlib.sha256(question.encode()).hexdigest(), 16)
    return voices[(first + take) % len(voices)]


def speak_questions(
    utterances: list[tuple[str, str]], journal: Journal, engine_name: str
) -> list[bytes]:
    """FLAC clips of (text, voice) pairs, in their order; the engine starts only when a clip is missing."""
    keys = [content_key("speech", engine_name, text, voice) for text, voice in utterances]
    missing = set(journal.missing(keys))
    todo = {
        key: utterance for key, utterance in zip(keys, utterances, strict=True) if key in missing
    }
    if todo:
        engine = load_engine(engine_name)
        try:
            for key, (text, voice) in tqdm(
                todo.items(), desc=f"speech by {engine_name}", unit="clip"
            ):
                journal.put(key, encode_speech(resample_speech(*engine.synthesize(text, voice))))
        finally:
            engine.close()
    return [journal.get(key) or b"" for key in keys]
