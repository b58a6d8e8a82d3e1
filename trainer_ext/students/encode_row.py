"""Encode the question of a row for a channel: as text (t2t), as speech (s2t), or as text about a clip (a2t)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_builders.audio import decode_speech
from data_builders.schema import CLIP_COLUMNS, SPEECH_RATE_HZ
from trainer_ext.students.base import StudentEncoder


def encode_row(encoder: StudentEncoder, row: Mapping[str, Any], channel: str, samples: int = 0) -> list[int]:
    """Return the token ids of a row's prompt in one channel.

    Args:
        samples: length of the clip at 16 kHz, for "s2t" and "a2t".

    Raises:
        ValueError: the clip is too short for one audio token.
    """
    if channel == "t2t":
        return encoder.encode_text_prompt(row["question"], row["system"])
    if channel == "a2t":
        return encoder.encode_audio_prompt(samples, row["question"], row["system"])
    return encoder.encode_speech_prompt(samples, row["system"])


def decode_clip(row: Mapping[str, Any], channel: str) -> np.ndarray | None:
    """Return the samples (n,) at 16 kHz that a channel asks with; None for a channel without audio.

    Raises:
        ValueError: the row's clip is missing or unreadable; names the row.
    """
    if channel not in CLIP_COLUMNS:
        return None
    clip, _ = CLIP_COLUMNS[channel]
    return decode_speech(row[clip], row["id"])


def estimate_samples(row: Mapping[str, Any], channel: str) -> int:
    """Return the samples of a row's clip from its stated length, without decoding it."""
    if channel not in CLIP_COLUMNS:
        return 0
    _, seconds = CLIP_COLUMNS[channel]
    return round(row[seconds] * SPEECH_RATE_HZ)
