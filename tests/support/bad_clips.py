"""Files that are no question by voice."""

import io
from pathlib import Path

import numpy as np
import soundfile


def write_bad_clips(folder: Path) -> dict[str, str]:
    """Write clips that cannot be asked; returns file -> the note that a person reads."""
    soundfile.write(folder / "long.wav", np.zeros(16_000 * 600, dtype=np.float32), 16_000)
    soundfile.write(folder / "empty.wav", np.zeros(0, dtype=np.float32), 16_000)
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    (folder / "text.wav").write_text("this is no sound\n" * 50)
    return {
        str(folder / "long.wav"): "the clip is 600.0 s long, and the model takes 30 s at most",
        str(folder / "empty.wav"): "the clip: its speech has zero length",
        str(folder / "nan.wav"): "the clip: it is not sound: its samples are beyond 100",
        str(folder / "text.wav"): "the clip: its speech cannot be read",
    }


def make_wav(samples: np.ndarray, rate_hz: int, subtype: str = "PCM_16") -> bytes:
    """Return samples (n,) or (n, channels) as a WAV file of any rate."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def claim_samples(flac: bytes, samples: int) -> bytes:
    """Return a FLAC file whose header claims so many samples: 36 bits at byte 21."""
    content = bytearray(flac)
    claimed = int.from_bytes(content[21:26], "big") >> 36 << 36 | samples
    content[21:26] = claimed.to_bytes(5, "big")
    return bytes(content)
