"""A clip as it might sound in real life: in a room, with noise, over a telephone; by audiomentations.

In: a clean clip. Out: another one of the same length, kept beside it, so that clean and noisy stay comparable. What is
drawn is drawn by the row's id.
"""

import io
import random
from collections.abc import Callable

import numpy as np
import soundfile

from data_builders.arguments import BuildArguments
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.call_cache import content_key

PEAK = 0.9
TELEPHONE_HZ = (300.0, 3400.0)


def make_augmentation_key(arguments: BuildArguments, clip_key: str, row_id: str) -> str:
    """Everything a noisy clip depends on."""
    return content_key(
        "noise", arguments.noise, arguments.noise_snr_db, arguments.seed, clip_key, row_id
    )


def augmentation_label(arguments: BuildArguments) -> str:
    """What the column `noise` says."""
    low, high = arguments.noise_snr_db
    names = {"noise": f"noise at {low:g} to {high:g} dB"}
    return ", ".join(names.get(name, name) for name in arguments.noise)


def check_augmentations(effects: list[str]) -> None:
    """Refuse an effect that nobody knows."""
    for name in effects:
        if name not in EFFECTS:
            raise ValueError(f"noise: unknown effect {name!r}; known are {', '.join(EFFECTS)}")


class Noise:
    """The chain of effects that the arguments name."""

    def __init__(self, effects: list[str], snr_db: list[float]) -> None:
        check_augmentations(effects)
        self._effects = [EFFECTS[name](snr_db) for name in effects]

    def apply(self, samples: np.ndarray, key: str) -> np.ndarray:
        """Samples (n,) at 16 kHz, made noisy; equal keys draw equally."""
        seed = int(content_key("noise", key)[:8], 16)
        random.seed(seed)  # audiomentations draws from both
        np.random.seed(seed)
        noisy = samples
        for effect in self._effects:
            noisy = effect(noisy)[: len(samples)]
        noisy = np.pad(noisy, (0, len(samples) - len(noisy)))
        return (noisy * (PEAK / max(np.abs(noisy).max(), PEAK))).astype(np.float32)


def load_room(_: list[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Reverberation of a simulated room."""
    from audiomentations import RoomSimulator

    # Traced rays are drawn from a generator that cannot be seeded, and take ten times as long.
    room = RoomSimulator(use_ray_tracing=False, leave_length_unchanged=True, p=1.0)
    return lambda samples: room(samples, SPEECH_RATE_HZ)


def load_noise(snr_db: list[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Colored noise, from the hiss of a cheap microphone to the rumble of a street."""
    from audiomentations import AddColorNoise

    noise = AddColorNoise(min_snr_db=snr_db[0], max_snr_db=snr_db[1], p=1.0)
    return lambda samples: noise(samples, SPEECH_RATE_HZ)


def load_phone(_: list[float]) -> Callable[[np.ndarray], np.ndarray]:
    """The band of a telephone, at its rate and in its codec (mu-law)."""
    from audiomentations import BandPassFilter

    low, high = TELEPHONE_HZ
    center, width = (low + high) / 2, (high - low) / ((low + high) / 2)
    band = BandPassFilter(
        min_center_freq=center, max_center_freq=center, min_bandwidth_fraction=width,
        max_bandwidth_fraction=width, p=1.0,
    )  # fmt: skip

    def call(samples: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        soundfile.write(
            file,
            np.clip(band(samples, SPEECH_RATE_HZ), -1, 1),
            SPEECH_RATE_HZ,
            format="WAV",
            subtype="ULAW",
        )
        return soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0]

    return call


EFFECTS = {"room": load_room, "noise": load_noise, "phone": load_phone}
