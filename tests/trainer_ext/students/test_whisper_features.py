"""Tests that features without the 300 s padding equal those with it."""

import numpy as np
import pytest
import torch

from data_builders.schema import SPEECH_RATE_HZ
from trainer_ext.students.whisper_features import count_frames, extract_features

# Lengths that are and are not whole hops of 160 samples, from 0.3 s to 25 s.
LENGTHS = [
    4800,
    4801,
    4959,
    8000,
    16000,
    16272,
    23999,
    31999,
    40000,
    53280,
    53281,
    64123,
    80000,
    99999,
    126400,
]
LENGTHS += [160000, 200001, 256789, 320000, 400000]


def make_clips(lengths: list[int]) -> list[np.ndarray]:
    """Return noise that ends loud, so that padding by silence and by reflection differ most."""
    generator = np.random.default_rng(0)
    return [(generator.normal(size=n) * np.linspace(0.01, 0.5, n)).astype(np.float32) for n in lengths]


def pad_to_300_seconds(extractor, clips):
    """Extract features as Qwen2.5-Omni's processor does."""
    return extractor(
        clips,
        sampling_rate=SPEECH_RATE_HZ,
        padding="max_length",
        max_length=300 * SPEECH_RATE_HZ,
        truncation=False,
        return_attention_mask=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize("group", [slice(0, 7), slice(7, 14), slice(14, 20)])
def test_valid_frames_are_bit_equal_to_those_padded_to_300_seconds(family, group):
    """Prevents: a last frame computed from a reflection of the clip instead of silence."""
    clips = make_clips(LENGTHS[group])
    ours = extract_features(clips, family.feature_extractor)
    padded = pad_to_300_seconds(family.feature_extractor, clips)
    for i, clip in enumerate(clips):
        frames = count_frames(len(clip), family.feature_extractor)
        assert int(ours["feature_attention_mask"][i].sum()) == frames == int(padded["attention_mask"][i].sum())
        assert torch.equal(ours["input_features"][i, :, :frames], padded["input_features"][i, :, :frames])
        assert ours["input_features"][i, :, frames:].abs().sum() == 0


def test_a_clips_features_do_not_depend_on_its_neighbours(family):
    """Prevents: a maximum over the batch instead of the clip."""
    short, long = make_clips([16000, 80000])
    alone = extract_features([short], family.feature_extractor)["input_features"][0]
    together = extract_features([long, short], family.feature_extractor)["input_features"][1]
    assert torch.equal(alone, together[:, : alone.shape[1]])
