"""Augmented clips: in a room, with noise, over a telephone; effects by audiomentations.

In: a clean clip. Out: a clip of the same length, stored beside it, so that clean and noisy rows stay comparable. Random
draws are seeded by the row's id.
"""

import io
import random
from collections.abc import Callable

import numpy as np
import soundfile

from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.call_cache import content_key

PEAK = 0.9
TELEPHONE_HZ = (300.0, 3400.0)


def augmentation_key(effects: list[str], snr_db: list[float], seed: int, clip_key: str, row_id: str) -> str:
    """Return the cache key: everything an augmented clip depends on."""
    return content_key("augmentation", effects, snr_db, seed, clip_key, row_id)


def augmentation_label(effects: list[str], snr_db: list[float]) -> str:
    """Return the value of the column `augmentation`."""
    low, high = snr_db
    labels = {"noise": f"noise at {low:g} to {high:g} dB"}
    return ", ".join(labels.get(name, name) for name in effects)


def check_augmentations(effects: list[str]) -> None:
    """Raise ValueError for an unknown effect."""
    for name in effects:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augmentations: unknown {name!r}; known are {', '.join(AUGMENTATIONS)}")


class Augmenter:
    """A chain of effects."""

    def __init__(self, effects: list[str], snr_db: list[float]) -> None:
        check_augmentations(effects)
        self._effects = [AUGMENTATIONS[name](snr_db) for name in effects]

    def apply(self, samples: np.ndarray, key: str) -> np.ndarray:
        """Return augmented samples (n,) at 16 kHz; equal keys draw equally."""
        seed = int(content_key("noise", key)[:8], 16)
        random.seed(seed)  # audiomentations draws from both
        np.random.seed(seed)
        noisy = samples
        for effect in self._effects:
            noisy = effect(noisy)[: len(samples)]
        noisy = np.pad(noisy, (0, len(samples) - len(noisy)))
        return (noisy * (PEAK / max(np.abs(noisy).max(), PEAK))).astype(np.float32)


def load_room(_: list[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Load the reverberation of a simulated room."""
    from audiomentations import RoomSimulator

    # Ray tracing draws from a generator that cannot be seeded, and takes ten times as long.
    room = RoomSimulator(use_ray_tracing=False, leave_length_unchanged=True, p=1.0)
    return lambda samples: room(samples, SPEECH_RATE_HZ)


def load_noise(snr_db: list[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Load colored noise, from a cheap microphone's hiss to a street's rumble."""
    from audiomentations import AddColorNoise

    noise = AddColorNoise(min_snr_db=snr_db[0], max_snr_db=snr_db[1], p=1.0)
    return lambda samples: noise(samples, SPEECH_RATE_HZ)


def load_phone(_: list[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Load a telephone's band and codec (mu-law)."""
    from audiomentations import BandPassFilter

    low, high = TELEPHONE_HZ
    center, width = (low + high) / 2, (high - low) / ((low + high) / 2)
    band = BandPassFilter(
        min_center_freq=center,
        max_center_freq=center,
        min_bandwidth_fraction=width,
        max_bandwidth_fraction=width,
        p=1.0,
    )

    def call(samples: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        filtered = np.clip(band(samples, SPEECH_RATE_HZ), -1, 1)
        soundfile.write(file, filtered, SPEECH_RATE_HZ, format="WAV", subtype="ULAW")
        return soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0]

    return call


AUGMENTATIONS = {"room": load_room, "noise": load_noise, "phone": load_phone}
