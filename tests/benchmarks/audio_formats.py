"""Audio formats: bytes per second of speech, and speed of encoding and decoding.

    python tests/benchmarks/audio_formats.py

Reading is as training does it: bytes of a cell to samples, by soundfile, one worker.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from data_builders.audio import resample_speech  # noqa: E402
from data_builders.schema import SPEECH_RATE_HZ  # noqa: E402
from data_builders.speech.tts.espeak import EspeakEngine  # noqa: E402

CLIPS = 200
FORMATS = {
    "wav, PCM16": {"format": "WAV", "subtype": "PCM_16"},
    "flac, PCM16": {"format": "FLAC", "subtype": "PCM_16"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
}
PAIRS_A_STEP, STEP_SECONDS = 8, 0.15  # the tiny lab's; a card's steps are longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    clips = speak(5 if parser.parse_args().smoke else CLIPS)
    seconds = sum(map(len, clips)) / SPEECH_RATE_HZ
    print("| format | bytes a second | encodes at | decodes at | clips a second and worker | of a step's need |")
    print("|---|---|---|---|---|---|")
    for name, options in FORMATS.items():
        files, writing = measure(lambda clip, options=options: encode(clip, options), clips)
        _, reading = measure(decode, files)
        rate = len(clips) / reading
        print(
            f"| {name} | {sum(map(len, files)) / seconds:,.0f} | {seconds / writing:,.0f} times real time | "
            f"{seconds / reading:,.0f} times | {rate:,.0f} | {rate / (PAIRS_A_STEP / STEP_SECONDS):.0f} times |"
        )


def speak(count: int) -> list[np.ndarray]:
    """Return clips (n,) of the lab's questions, two seconds each."""
    lines = (ROOT / "recipes" / "tiny_lab" / "questions.jsonl").read_text().splitlines()[:count]
    engine = EspeakEngine()
    clips = [resample_speech(*engine.synthesize(json.loads(line)["question"], "en-us")) for line in lines]
    engine.close()
    return clips


def encode(clip: np.ndarray, options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, clip, SPEECH_RATE_HZ, **options)
    return file.getvalue()


def decode(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]


def measure(function: Callable, items: list) -> tuple[list, float]:
    """Return the results of all calls, and their seconds."""
    started = time.monotonic()
    results = [function(item) for item in items]
    return results, time.monotonic() - started


if __name__ == "__main__":
    main()
