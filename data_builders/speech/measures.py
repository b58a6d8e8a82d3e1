"""Measures of a clip's sound alone: loudness, clipping, pauses, speaking rate."""

import numpy as np

from data_builders.schema import SPEECH_RATE_HZ

FRAME = SPEECH_RATE_HZ // 50  # samples of 20 ms
QUIET = 10 ** (-45 / 20)  # relative to the loudest frame; below it nobody speaks
FULL_SCALE = 0.999


def measure_audio(clip: np.ndarray, text: str) -> dict[str, float]:
    """Return the measures of samples (n,) at 16 kHz that should say `text`."""
    frames = clip[: len(clip) // FRAME * FRAME].reshape(-1, FRAME)
    loudness = np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1)) if len(frames) else np.zeros(1)
    voiced = loudness > max(QUIET * loudness.max(), 1e-6)
    voiced_seconds = max(voiced.sum() * FRAME / SPEECH_RATE_HZ, 0.02)
    return {
        "seconds": round(len(clip) / SPEECH_RATE_HZ, 4),
        "loudness": round(float(loudness.max()), 6),
        "clipped_share": round(float((np.abs(clip) >= FULL_SCALE).mean()), 6) if len(clip) else 0.0,
        "longest_pause_seconds": round(longest_run(~voiced) * FRAME / SPEECH_RATE_HZ, 3),
        "letters_per_second": round(len(text) / voiced_seconds, 3),
    }


def longest_run(flags: np.ndarray) -> int:
    """Return the length of the longest stretch of true flags (n,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0
