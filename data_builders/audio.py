"""FLAC clips: samples to bytes and back, resampling."""

import io
from typing import Any

import numpy as np
import soundfile
import soxr

from data_builders.schema import SPEECH_RATE_HZ


def encode_speech(samples: np.ndarray) -> bytes:
    """FLAC bytes of mono samples (n,) in [-1, 1] at 16 kHz; louder samples are clipped."""
    buffer = io.BytesIO()
    soundfile.write(
        buffer, np.clip(samples, -1, 1), SPEECH_RATE_HZ, format="FLAC", subtype="PCM_16"
    )
    return buffer.getvalue()


def decode_speech(cell: dict[str, Any] | None, row_id: str) -> np.ndarray:
    """Samples (n,) float32 at 16 kHz of one undecoded `speech` cell, whatever rate and channels it was kept in.

    Raises:
        ValueError: no speech, or unreadable or empty audio; the message names the row.
    """
    name = f"row {row_id}"
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError(f"{name}: it has no speech")
    return read_speech(cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"]), name)


def read_speech(file: str | io.BytesIO, name: str) -> np.ndarray:
    """Samples (n,) float32 at 16 kHz of a file in any format, rate and number of channels that soundfile reads.

    Raises:
        ValueError: unreadable or empty audio; the message starts with `name`.
    """
    try:
        samples, rate_hz = soundfile.read(file, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name}: its speech cannot be read: {error}") from error
    if len(samples) == 0:
        raise ValueError(f"{name}: its speech has zero length")
    return resample_speech(samples, rate_hz)


def resample_speech(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Mono float32 samples (n,) at 16 kHz from (n,) or (n, channels) at any rate; channels are averaged."""
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if rate_hz == SPEECH_RATE_HZ:
        return samples.astype(np.float32, copy=False)
    return np.asarray(
        soxr.resample(samples.astype(np.float32), rate_hz, SPEECH_RATE_HZ), dtype=np.float32
    )
