"""Recordings under harder conditions: the same questions in noise, in a room, over a telephone, faster or slower."""

from functools import cache, partial
from typing import Any

import numpy as np
import soxr

from data_builders.audio import decode_speech, encode_speech
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.speech.augmentation import Augmenter
from trainer_ext.evaluation.benchmarks.base import LoadedBenchmark

NOISE, SPEED = "noise", "speed"
PLAIN = ("room", "phone")
HOW = "a condition is noise=DECIBELS, speed=FACTOR, room or phone"


def parse_condition(text: str) -> tuple[str, float | None]:
    """Return name and value of a condition.

    Raises:
        ValueError: it is none.
    """
    name, _, value = text.partition("=")
    if name in PLAIN and not value:
        return name, None
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"conditions: {text!r} is unknown; {HOW}") from None
    if name not in (NOISE, SPEED) or (name == SPEED and not 0.25 <= number <= 4):
        raise ValueError(f"conditions: {text!r} is unknown, or a speed beyond 0.25 to 4; {HOW}")
    return name, number


def apply_condition(loaded: LoadedBenchmark, text: str) -> LoadedBenchmark:
    """Return a benchmark with changed clips; noise is drawn by the item's id, so that every model hears the same."""
    name, value = parse_condition(text)
    label = text if value is None else f"{name} {value:g}{' dB' if name == NOISE else ''}"
    return loaded._replace(condition=label, change_clip=partial(change_clip, name, value))


@cache
def load_augmenter(name: str, snr_db: float) -> Augmenter:
    """Load one effect of the data builder."""
    return Augmenter([name], [snr_db, snr_db])


def change_clip(name: str, value: float | None, clip: dict[str, Any], item_id: str) -> dict[str, Any]:
    """Return an undecoded clip under a condition."""
    samples = decode_speech(clip, item_id)
    if name == SPEED:
        assert value is not None
        changed = np.asarray(soxr.resample(samples, SPEECH_RATE_HZ * value, SPEECH_RATE_HZ), dtype=np.float32)
    else:
        changed = load_augmenter(name, 0.0 if value is None else value).apply(samples, item_id)
    return {"bytes": encode_speech(changed), "path": None}
