"""Voices of several engines in one data set, each written `engine:voice`: "espeak:en-us+f2", "flite:slt/1.1"."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from data_builders.arguments import SpeechArguments
from data_builders.speech import synthesis

LOCAL = ("espeak", "flite", "pocket")  # engines that need no argument but the voice


class SeveralEngines:
    """Starts an engine when its first voice is asked for."""

    name = "several"
    in_flight = 1

    @classmethod
    def from_arguments(cls, arguments: SpeechArguments) -> "SeveralEngines":
        return cls(arguments)

    def __init__(self, arguments: SpeechArguments) -> None:
        self._arguments = arguments
        self._engines: dict[str, synthesis.SpeechEngine] = {}

    @staticmethod
    def check_voices(voices: list[str]) -> None:
        """Raise ValueError for a voice without an engine, and for one that its engine does not have."""
        of_engine = defaultdict(list)
        for voice in voices:
            engine, own = split_voice(voice)
            of_engine[engine].append(own)
        for engine, own_voices in of_engine.items():
            synthesis.find_engine(SpeechArguments(speech_engine=engine)).check_voices(own_voices)

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        """Synthesize `text` by the voice's engine; see `SpeechEngine`."""
        name, own = split_voice(voice)
        if name not in self._engines:
            self._engines[name] = synthesis.load_engine(replace(self._arguments, speech_engine=name))
        return self._engines[name].synthesize(text, own)

    def close(self) -> None:
        """Close the engines that were started."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()


def split_voice(voice: str) -> tuple[str, str]:
    """Return engine and voice.

    Raises:
        ValueError: no local engine is named.
    """
    engine, _, own = voice.partition(":")
    if engine not in LOCAL or not own:
        raise ValueError(f"voice {voice!r}: write engine:voice, with one of {', '.join(LOCAL)}, as in flite:slt/1.1")
    return engine, own
