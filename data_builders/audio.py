"""Clips: samples to FLAC bytes and back, in any format, rate and number of channels that soundfile reads."""

import io
from typing import Any

import numpy as np
import soundfile
import soxr

from data_builders.schema import SPEECH_RATE_HZ


def encode_speech(samples: np.ndarray) -> bytes:
    """Return mono samples (n,) at 16 kHz as FLAC bytes (PCM16); samples beyond [-1, 1] are clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), SPEECH_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_speech(cell: dict[str, Any] | None, row_id: str) -> np.ndarray:
    """Return the samples (n,) float32 at 16 kHz of one undecoded `speech` cell.

    Raises:
        ValueError: the cell is empty, or its audio unreadable or empty; the message names the row.
    """
    name = f"row {row_id}"
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError(f"{name}: it has no speech")
    return read_speech(cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"]), name)


def count_samples(cell: dict[str, Any], row_id: str) -> int:
    """Return the samples at 16 kHz of one undecoded cell by its header, without decoding it.

    Raises:
        ValueError: the cell is empty, or its header cannot be read.
    """
    if cell["bytes"] is None and cell["path"] is None:
        raise ValueError(f"row {row_id}: it has no speech")
    try:
        facts = soundfile.info(cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"]))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"row {row_id}: its speech cannot be read: {error}") from error
    return round(facts.duration * SPEECH_RATE_HZ)


def read_speech(file: str | io.BytesIO, name: str) -> np.ndarray:
    """Return the samples (n,) float32 at 16 kHz of a sound file.

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
    """Convert (n,) or (n, channels) at any rate to mono float32 samples at 16 kHz; channels are averaged."""
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if rate_hz == SPEECH_RATE_HZ:
        return samples.astype(np.float32, copy=False)
    return np.asarray(soxr.resample(samples.astype(np.float32), rate_hz, SPEECH_RATE_HZ), dtype=np.float32)
