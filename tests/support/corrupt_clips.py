"""Clips of others: cut, damaged, with wrong headers, in any format."""

import io
import random

import numpy as np
import soundfile

from data_builders.audio import encode_speech
from tests.support.bad_clips import claim_samples, make_wav

FORMATS = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III", "AIFF": "PCM_16", "AU": "ULAW"}
TONE = (0.3 * np.sin(np.arange(8_000) / 5)).astype(np.float32)


def make_clip(kind: str, rate_hz: int = 16_000, channels: int = 1) -> bytes:
    """Return half a second of a tone."""
    file = io.BytesIO()
    samples = np.repeat(TONE[:, None], channels, axis=1)
    soundfile.write(file, samples, rate_hz, format=kind, subtype=FORMATS[kind])
    return file.getvalue()


WHOLE = {kind: make_clip(kind) for kind in FORMATS}


def corrupt(chance: random.Random) -> bytes:
    """Return a clip that is cut, has other bytes, claims what it does not have, or is none."""
    kind = chance.choice(list(FORMATS))
    content = bytearray(WHOLE[kind])
    how = chance.randrange(9)
    if how == 0:
        return bytes(content[: chance.randrange(len(content))])
    if how == 1:  # the header
        for _ in range(chance.randint(1, 6)):
            content[chance.randrange(min(len(content), 60))] = chance.randrange(256)
    elif how == 2:
        for _ in range(chance.randint(1, 40)):
            content[chance.randrange(len(content))] = chance.randrange(256)
    elif how == 3:
        return claim_samples(encode_speech(TONE), chance.choice([0, 1, 2**20, 2**30, 2**36 - 1]))
    elif how == 4:  # a rate of almost nothing, or of radio
        return make_wav(TONE, chance.choice([1, 2, 100, 3_999, 500_000, 2**31 - 1]))
    elif how == 5:
        return make_clip("WAV", chance.choice([8_000, 44_100, 192_000]), chance.choice([2, 8, 24, 255]))
    elif how == 6:
        wild = TONE.copy()
        wild[chance.randrange(len(wild))] = chance.choice([np.nan, np.inf, -np.inf, 1e30, 101.0])
        return make_wav(wild, 16_000, "FLOAT")
    elif how == 7:  # 24 hours by the header of a WAV
        content = bytearray(WHOLE["WAV"])
        content[40:44] = (16_000 * 2 * 86_400).to_bytes(4, "little")
        content[4:8] = (2**32 - 1).to_bytes(4, "little")
    else:
        return chance.randbytes(chance.randrange(200)) + bytes(content[: chance.randrange(100)])
    return bytes(content)
