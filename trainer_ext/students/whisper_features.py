"""Log-mel features of clips, padded to the longest clip of the batch instead of to 300 seconds.

Qwen2.5-Omni's own processor pads every clip to 300 s (30,000 frames, about half a second of CPU each). Here the valid
frames are bit-equal to those and nothing else is computed: the STFT of the last frame must see silence, not the
reflection at the end of the array, so silence is appended before extracting and its frames are cut away.
"""

import math

import numpy as np
import torch
from transformers import WhisperFeatureExtractor


def count_frames(samples: int, extractor: WhisperFeatureExtractor) -> int:
    """Mel frames of a clip of so many samples (hop 160 at 16 kHz: 100 frames a second)."""
    return math.ceil(samples / extractor.hop_length)


def extract_features(
    clips: list[np.ndarray], extractor: WhisperFeatureExtractor
) -> dict[str, torch.Tensor]:
    """Features of a batch of clips.

    Args:
        clips: float32 mono samples at the extractor's rate, each (samples,).

    Returns:
        `input_features` (clips, mel bins, frames of the longest) and `feature_attention_mask` (clips, frames).
    """
    frames = [count_frames(len(clip), extractor) for clip in clips]
    longest = max(frames)
    # n_fft samples of silence cover every window that starts in the longest clip, in whole hops.
    silent_hops = math.ceil(extractor.n_fft / extractor.hop_length)
    padded = np.zeros(
        (len(clips), (longest + silent_hops) * extractor.hop_length), dtype=np.float32
    )
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    features = extractor(
        list(padded),
        sampling_rate=extractor.sampling_rate,
        padding="longest",
        truncation=False,
        return_tensors="pt",
    )["input_features"][:, :, :longest]
    mask = torch.arange(longest) < torch.tensor(frames)[:, None]
    return {"input_features": features * mask[:, None], "feature_attention_mask": mask.long()}
