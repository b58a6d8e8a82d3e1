"""Clips: samples to FLAC bytes and back, in any format, rate and number of channels that soundfile reads.

A header is read before anything is decoded, and one beyond the bounds below is refused: 30 KB of WAV at a rate of 1 Hz
would be 1.2 GB at 16 kHz, and a header can claim 2^36 samples.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from data_builders.schema import SPEECH_RATE_HZ

RATES_HZ = (4_000, 384_000)
MAX_SECONDS = 600.0
MAX_VALUES = 57_600_000  # of all channels: ten minutes of stereo at 48 kHz, 230 MB as float32
FLOATING = ("FLOAT", "DOUBLE")  # subtypes
LOUDEST = 100.0  # full scale is 1; files of floating-point numbers may exceed it


def encode_speech(samples: np.ndarray) -> bytes:
    """Return mono samples (n,) at 16 kHz as FLAC bytes (PCM16); samples beyond [-1, 1] are clipped.

    Raises:
        ValueError: the samples are none, or no sound.
    """
    if len(samples) == 0:
        raise ValueError("the clip has no samples at 16 kHz")
    check_finite(samples, "the clip")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), SPEECH_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_speech(cell: dict[str, Any] | None, row_id: str) -> np.ndarray:
    """Return the samples (n,) float32 at 16 kHz of one undecoded `speech` cell.

    Raises:
        ValueError: the cell is empty, or its audio unreadable, empty or beyond the bounds; the message names the row.
    """
    name = f"row {row_id}"
    return read_speech(open_cell(cell, name), name)


def measure_clip(cell: dict[str, Any] | None, row_id: str) -> float:
    """Return the seconds of one undecoded cell by its header, after a look for its last sample.

    A cut clip has a whole header. Reading the last sample finds it at a twentieth of the cost of decoding all. Files of
    floating-point numbers are read as a whole: they alone can hold NaN.

    Raises:
        ValueError: see `decode_speech`; or the clip ends before its header says.
    """
    name = f"row {row_id}"
    with open_sound(open_cell(cell, name), name) as sound:
        if not sound.subtype.startswith(FLOATING):
            sound.seek(max(sound.frames - 1, 0))
        samples = sound.read(dtype="float32")
        if len(samples) < min(sound.frames, 1):
            raise ValueError(f"{name}: its speech ends before the {sound.frames} samples that its header states")
        check_finite(samples, name)
        return sound.frames / sound.samplerate


def count_samples(cell: dict[str, Any] | None, row_id: str) -> int:
    """Return the samples at 16 kHz of one undecoded cell by its header alone.

    Raises:
        ValueError: see `decode_speech`.
    """
    name = f"row {row_id}"
    with open_sound(open_cell(cell, name), name) as sound:
        return round(sound.frames / sound.samplerate * SPEECH_RATE_HZ)


def open_cell(cell: dict[str, Any] | None, name: str) -> str | io.BytesIO:
    """Return the bytes of an undecoded cell as a file, or else its path.

    Raises:
        ValueError: it has neither.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError(f"{name}: it has no speech")
    return cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])


def read_speech(file: str | io.BytesIO, name: str) -> np.ndarray:
    """Return the samples (n,) float32 at 16 kHz of a sound file; see `read_samples`."""
    return resample_speech(*read_samples(file, name))


def read_samples(file: str | io.BytesIO, name: str) -> tuple[np.ndarray, int]:
    """Return the samples (n,) or (n, channels) float32 of a sound file, and their rate in Hz.

    Raises:
        ValueError: unreadable or empty audio, or samples that are no sound; the message starts with `name`.
    """
    with open_sound(file, name) as sound:
        samples, rate_hz = sound.read(dtype="float32"), sound.samplerate
    if len(samples) == 0:
        raise ValueError(f"{name}: its speech has zero length")
    check_finite(samples, name)
    return samples, rate_hz


def check_finite(samples: np.ndarray, name: str) -> None:
    """Raise ValueError for samples of any shape that are no sound."""
    if samples.size and not np.abs(samples).max() <= LOUDEST:  # NaN too
        raise ValueError(f"{name}: it is not sound: its samples are beyond {LOUDEST:g}, infinite or not a number")


@contextmanager
def open_sound(file: str | io.BytesIO, name: str) -> Iterator[soundfile.SoundFile]:
    """Open a sound file whose header is within the bounds.

    Raises:
        ValueError: it cannot be opened or read, or is beyond the bounds; the message starts with `name`.
    """
    if isinstance(file, str) and not Path(file).is_file():  # reading a FIFO or a device would never end
        fault = f"{file} is no regular file" if Path(file).exists() else f"there is no file {file}"
        raise ValueError(f"{name}: its speech cannot be read: {fault}")
    try:
        with soundfile.SoundFile(file) as sound:
            check_header(sound, name)
            yield sound
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a raw file without a header
        reason = getattr(error, "error_string", str(error))  # without the file's path
        raise ValueError(f"{name}: its speech cannot be read: {reason}") from error


def check_header(sound: soundfile.SoundFile, name: str) -> None:
    """Raise ValueError for a header that claims another rate, more seconds or more samples than the bounds allow."""
    low, high = RATES_HZ
    rate_hz, seconds = sound.samplerate, sound.frames / max(sound.samplerate, 1)
    if not low <= rate_hz <= high:
        raise ValueError(f"{name}: its speech has {rate_hz} samples per second; {low} to {high} can be read")
    if seconds > MAX_SECONDS or sound.frames * sound.channels > MAX_VALUES:
        raise ValueError(
            f"{name}: its header claims {seconds:.1f} s in {sound.channels} channels at {rate_hz} Hz; at most "
            f"{MAX_SECONDS:g} s and {MAX_VALUES} samples of all channels can be read"
        )


def resample_speech(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Convert (n,) or (n, channels) at any rate to mono float32 samples at 16 kHz; channels are averaged."""
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if rate_hz == SPEECH_RATE_HZ:
        return samples.astype(np.float32, copy=False)
    return np.asarray(soxr.resample(samples.astype(np.float32), rate_hz, SPEECH_RATE_HZ), dtype=np.float32)
