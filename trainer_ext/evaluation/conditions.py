"""Recordings under other conditions: in noise, in a room, over a telephone, faster or slower, in another voice."""

import threading
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import soxr

from data_builders.arguments import SpeechArguments
from data_builders.audio import decode_speech, encode_speech, resample_speech
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.speech.augmentation import Augmenter
from data_builders.speech.synthesis import SpeechEngine, load_engine
from trainer_ext.evaluation.benchmarks.base import LoadedBenchmark
from trainer_ext.evaluation.items import Item

NOISE, SPEED, VOICE = "noise", "speed", "voice"
PLAIN = ("room", "phone")
ONE_AT_A_TIME = threading.Lock()
HOW = "a condition is noise=DECIBELS, speed=FACTOR, voice=NAME (of espeak), room or phone"


def parse_condition(text: str) -> tuple[str, float | str | None]:
    """Return name and value of a condition.

    Raises:
        ValueError: it is none.
    """
    name, _, value = text.partition("=")
    if name in PLAIN and not value:
        return name, None
    if name == VOICE and value:
        return name, value
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"conditions: {text!r} is unknown; {HOW}") from None
    if name not in (NOISE, SPEED) or (name == SPEED and not 0.25 <= number <= 4):
        raise ValueError(f"conditions: {text!r} is unknown, or a speed beyond 0.25 to 4; {HOW}")
    return name, number


def apply_condition(loaded: LoadedBenchmark, text: str) -> LoadedBenchmark:
    """Return a benchmark with changed clips; noise is drawn by the item's id, so that every model hears the same.

    Raises:
        ValueError: there is no such voice.
    """
    name, value = parse_condition(text)
    if isinstance(value, str):
        if not all(item.question for item in loaded.items):
            raise ValueError(f"conditions: {text!r} needs questions in writing, and {loaded.benchmark.name} has none")
        load_speaker().check_voices([value])
        return replace(loaded, condition=f"{name} {value}", change_clip=partial(speak_question, value))
    label = text if value is None else f"{name} {value:g}{' dB' if name == NOISE else ''}"
    return replace(loaded, condition=label, change_clip=partial(change_clip, name, value))


@cache
def load_augmenter(name: str, snr_db: float) -> Augmenter:
    """Load one effect of the data builder."""
    return Augmenter([name], [snr_db, snr_db])


@cache
def load_speaker() -> SpeechEngine:
    """Start the data builder's default TTS engine."""
    return load_engine(SpeechArguments())


def change_clip(name: str, value: float | None, clip: dict[str, Any], item: Item) -> dict[str, Any]:
    """Return an undecoded clip under a condition."""
    samples = decode_speech(clip, item.id)
    if name == SPEED:
        assert value is not None
        changed = np.asarray(soxr.resample(samples, SPEECH_RATE_HZ * value, SPEECH_RATE_HZ), dtype=np.float32)
    else:
        with ONE_AT_A_TIME:  # the effects draw from the process's generators, and servers are asked by threads
            changed = load_augmenter(name, 0.0 if value is None else value).apply(samples, item.id)
    return {"bytes": encode_speech(changed), "path": None}


def speak_question(voice: str, clip: dict[str, Any], item: Item) -> dict[str, Any]:
    """Return an item's question in another voice instead of its clip."""
    with ONE_AT_A_TIME:
        samples, rate_hz = load_speaker().synthesize(item.question, voice)
    return {"bytes": encode_speech(resample_speech(samples, rate_hz)), "path": None}
