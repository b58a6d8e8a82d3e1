"""Clips of noise."""

import numpy as np


def make_noise(samples: int) -> np.ndarray:
    """Return white noise (samples,), the same for the same length."""
    return np.random.default_rng(samples).normal(size=samples).astype(np.float32) / 10
