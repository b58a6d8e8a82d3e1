"""Flite: statistical voices of recorded speakers, clearer than espeak-ng's; the system's program, and no download.

`apt-get install flite` or `brew install flite`; its license is like BSD's. A voice is written
`speaker[/stretch[/pitch]]`, with the factors of duration and pitch: "slt", "rms/1.2/0.9". Equal calls give equal clips.
"""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from data_builders.arguments import SpeechArguments
from data_builders.speech.tts.program import run_program

FACTORS = (0.5, 2.0)  # slowest and fastest, lowest and highest
CLOCK = "awb_time"  # a speaker who can say the time of day alone


class FliteVoice(NamedTuple):
    """A parsed voice string."""

    speaker: str
    stretch: float = 1.0
    pitch: float = 1.0

    @classmethod
    def parse(cls, voice: str) -> "FliteVoice":
        """Return the parts of a voice.

        Raises:
            ValueError: it is not written as one, or a factor is out of bounds.
        """
        speaker, *factors = voice.split("/")
        try:
            parsed = cls(speaker, *map(float, factors))
        except (TypeError, ValueError):
            parsed = cls("")
        if not parsed.speaker or not all(FACTORS[0] <= factor <= FACTORS[1] for factor in parsed[1:]):
            raise ValueError(
                f"flite voice {voice!r}: write speaker[/stretch[/pitch]], factors from {FACTORS[0]} to {FACTORS[1]}, "
                "for example rms/1.2/0.9"
            )
        return parsed


class FliteEngine:
    """Runs the program, one process per utterance (15 to 30 a second and core).

    Raises:
        ValueError: it is not installed.
    """

    name = "flite"
    in_flight = 1

    @classmethod
    def from_arguments(cls, arguments: SpeechArguments) -> "FliteEngine":
        return cls()

    def __init__(self) -> None:
        program = shutil.which("flite")
        if program is None:
            raise ValueError("flite is not installed: apt-get install flite, or brew install flite")
        self._program = program
        self.speakers = list_speakers(program)

    @staticmethod
    def check_voices(voices: list[str]) -> None:
        """Raise ValueError for a voice of an unknown speaker; the program would speak in another one's."""
        engine = FliteEngine()
        for voice in voices:
            engine.find_voice(voice)

    def find_voice(self, voice: str) -> FliteVoice:
        """Return a parsed voice of a speaker that the program has."""
        parsed = FliteVoice.parse(voice)
        if parsed.speaker not in self.speakers:
            raise ValueError(f"flite has no speaker {parsed.speaker!r}; it has {', '.join(self.speakers)}")
        return parsed

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        """Synthesize `text`.

        Returns:
            samples (n,) float32 in [-1, 1], and the sampling rate in Hz.

        Raises:
            ValueError: nothing to say, no such speaker, or flite failed on this text.
        """
        if not text.strip() or "\0" in text:
            raise ValueError("cannot speak an empty text, or one with a NUL character")
        parsed = self.find_voice(voice)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "clip.wav"
            settings = [f"duration_stretch={parsed.stretch}", f"f0_shift={parsed.pitch}"]
            command = [self._program, "-voice", parsed.speaker, "--setf", settings[0], "--setf", settings[1]]
            run_program("flite", [*command, "-t", text, "-o", str(file)], text)
            if not file.is_file():
                raise ValueError(f"flite failed on {text[:60]!r}: it wrote no file")
            samples, rate_hz = soundfile.read(file, dtype="float32")
        if not samples.any():
            raise ValueError(f"flite said nothing for {text[:60]!r}")
        return samples, rate_hz

    def close(self) -> None:
        """Do nothing: no process is left between utterances."""


def list_speakers(program: str) -> list[str]:
    """Return the speakers of a flite program."""
    said = run_program("flite", [program, "-lv"], "").decode()
    return [name for name in said.partition(":")[2].split() if name != CLOCK]
