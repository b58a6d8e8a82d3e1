"""espeak-ng: formant synthesis, small, fast and repeatable; needs no download.

A voice is written `variant[/words_per_minute[/pitch]]`: "en-us", "en-gb-scotland+f2/150/40". The engine runs the
library of the package `espeakng-loader` in a helper process (210 short clips per second and core), or else the system's
`espeak-ng` program, one process per utterance.
"""

import importlib.util
import io
import json
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from data_builders.arguments import SpeechArguments
from data_builders.outcomes import TemporaryFailure
from data_builders.speech.tts.program import TIMEOUT_SECONDS, run_program

HELPER = Path(__file__).with_name("espeak_helper.py")


class EspeakVoice(NamedTuple):
    """A parsed voice string."""

    variant: str
    words_per_minute: int = 170
    pitch: int = 50

    @classmethod
    def parse(cls, voice: str) -> "EspeakVoice":
        variant, *numbers = voice.split("/")
        if not variant or len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
            raise ValueError(
                f"espeak voice {voice!r}: write variant[/words_per_minute[/pitch]], for example en-us+f3/160/55"
            )
        parsed = cls(variant, *map(int, numbers))
        if not (80 <= parsed.words_per_minute <= 450 and 0 <= parsed.pitch <= 99):
            raise ValueError(f"espeak voice {voice!r}: words per minute must be 80-450 and pitch 0-99")
        return parsed


class EspeakEngine:
    """Runs espeak-ng, one call at a time; every worker process has an engine of its own.

    Two calls are in flight: while one clip is encoded and stored, the next is spoken.

    Raises:
        ValueError: neither the package nor the program is installed.
    """

    name = "espeak"
    in_flight = 2

    @classmethod
    def from_arguments(cls, arguments: SpeechArguments) -> "EspeakEngine":
        return cls()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._helper: subprocess.Popen[bytes] | None = None
        self._program = None
        if importlib.util.find_spec("espeakng_loader") is None:
            self._program = shutil.which("espeak-ng")
            if self._program is None:
                raise ValueError(
                    'espeak-ng is not installed: pip install -e ".[espeak]", or install the system\'s package '
                    "espeak-ng (apt-get install espeak-ng, brew install espeak-ng)"
                )

    @staticmethod
    def check_voices(voices: list[str]) -> None:
        """Raise ValueError for a voice that espeak-ng does not have; the message lists English ones and variants."""
        engine = EspeakEngine()
        try:
            for voice in voices:
                engine.synthesize("a", voice)
        except ValueError as error:
            raise ValueError(f"{error}. {describe_voices()}") from error
        finally:
            engine.close()

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        """Synthesize `text`.

        Returns:
            samples (n,) float32 in [-1, 1], and the sampling rate in Hz.

        Raises:
            ValueError: nothing to say, no such voice, or espeak-ng failed on this text.
            TemporaryFailure: the helper process died; the next call starts another.
        """
        if not text.strip():
            raise ValueError("cannot speak an empty text")
        if "\0" in text:
            raise ValueError("cannot speak a text with a NUL character: espeak-ng would stop there")
        parsed = EspeakVoice.parse(voice)
        with self._lock:
            if self._program is not None:
                return self._run_program(self._program, text, parsed)
            return self._ask_helper(text, parsed)

    def close(self) -> None:
        """Stop the helper process; a later call starts another."""
        if self._helper is not None:
            self._helper.kill()
            self._helper.communicate()
            self._helper = None

    def _run_program(self, program: str, text: str, voice: EspeakVoice) -> tuple[np.ndarray, int]:
        command = [
            program,
            "-v",
            voice.variant,
            "-s",
            str(voice.words_per_minute),
            "-p",
            str(voice.pitch),
        ]
        sound = run_program("espeak-ng", [*command, "--stdin", "--stdout"], text, stdin=text.encode())
        return soundfile.read(io.BytesIO(sound), dtype="float32")

    def _ask_helper(self, text: str, voice: EspeakVoice) -> tuple[np.ndarray, int]:
        if self._helper is None:
            self._helper = subprocess.Popen(
                [sys.executable, str(HELPER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            (self._rate_hz,) = struct.unpack("<I", self._read(4))
        request = {
            "text": text,
            **voice._asdict(),
            "voice": voice.variant,
            "timeout_seconds": TIMEOUT_SECONDS,
        }
        assert self._helper.stdin is not None
        try:
            self._helper.stdin.write(json.dumps(request).encode() + b"\n")
            self._helper.stdin.flush()
        except BrokenPipeError:
            self._read(1)  # raises
        status, length = struct.unpack("<cI", self._read(5))
        answer = self._read(length)
        if status != b"+":
            raise ValueError(f"espeak-ng failed on {text[:60]!r}: {answer.decode(errors='replace')}")
        return np.frombuffer(answer, dtype="<i2").astype(np.float32) / 32768, self._rate_hz

    def _read(self, length: int) -> bytes:
        assert self._helper is not None
        assert self._helper.stdout is not None
        data = self._helper.stdout.read(length)
        if len(data) < length:
            self.close()
            raise TemporaryFailure("the espeak-ng helper process died; its messages are above")
        return data


def describe_voices() -> str:
    """Return the English accents and the variants of the package's voices as a sentence."""
    if importlib.util.find_spec("espeakng_loader") is None:
        return "`espeak-ng --voices=en` and `espeak-ng --voices=variant` list what there is"
    import espeakng_loader

    data = Path(espeakng_loader.get_data_path())
    accents = sorted(
        line.split()[1]
        for file in (data / "lang").rglob("en*")
        if file.is_file()
        for line in file.read_text(errors="replace").splitlines()
        if line.startswith("language en")
    )
    variants = sorted(file.name for file in (data / "voices" / "!v").iterdir())
    names = ", ".join(dict.fromkeys(accents))
    return f"English voices are {names}; variants, as in en-us+f3, are {', '.join(variants)}"
