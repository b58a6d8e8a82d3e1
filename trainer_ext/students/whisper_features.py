"""Log-mel features of clips, padded to the longest clip of the batch instead of to 300 seconds.

Qwen2.5-Omni's own processor pads every clip to 300 s (30,000 frames, about half a second of CPU each). Here the valid
frames are bit-equal to those, and no others are computed. The STFT of the last frame must see silence, not the
reflection at the end of the array, so silence is appended before extraction and its frames are cut off.
"""

import math

import numpy as np
import torch
from transformers import WhisperFeatureExtractor


def count_frames(samples: int, feature_extractor: WhisperFeatureExtractor) -> int:
    """Return the mel frames of a clip of so many samples (hop 160 at 16 kHz: 100 frames per second)."""
    return math.ceil(samples / feature_extractor.hop_length)


def extract_features(clips: list[np.ndarray], feature_extractor: WhisperFeatureExtractor) -> dict[str, torch.Tensor]:
    """Extract the features of a batch of clips.

    Args:
        clips: float32 mono samples (n,) at the extractor's rate.

    Returns:
        `input_features` (clips, mel bins, frames of the longest) and `feature_attention_mask` (clips, frames).
    """
    frames = [count_frames(len(clip), feature_extractor) for clip in clips]
    longest = max(frames)
    # n_fft samples of silence cover every window that starts in the longest clip, in complete hops.
    silent_hops = math.ceil(feature_extractor.n_fft / feature_extractor.hop_length)
    samples = (longest + silent_hops) * feature_extractor.hop_length
    padded = np.zeros((len(clips), samples), dtype=np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    features = feature_extractor(
        list(padded),
        sampling_rate=feature_extractor.sampling_rate,
        padding="longest",
        truncation=False,
        return_tensors="pt",
    )["input_features"][:, :, :longest]
    mask = torch.arange(longest) < torch.tensor(frames)[:, None]
    return {"input_features": features * mask[:, None], "feature_attention_mask": mask.long()}


def extract_padded_features(
    clips: list[np.ndarray], feature_extractor: WhisperFeatureExtractor
) -> dict[str, torch.Tensor]:
    """Extract the features of a batch of clips, for a tower that takes the extractor's longest clip and nothing else.

    Returns:
        As `extract_features`, with as many frames for every clip.
    """
    features = feature_extractor(
        clips,
        sampling_rate=feature_extractor.sampling_rate,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    mask = features["attention_mask"].long()
    return {"input_features": features["input_features"], "feature_attention_mask": mask}
