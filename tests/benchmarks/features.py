"""Speed of feature extraction without the 300 s padding against with it, in turns, in one run.

    python tests/benchmarks/features.py

On two cores of a cloud CPU: 50 times faster, median of three rounds (41 to 56), for 20 clips of 0.3 to 25 s.
"""

import argparse
import statistics
import time

import numpy as np
from transformers import WhisperFeatureExtractor

from trainer_ext.students.whisper_features import extract_features

RATE_HZ = 16_000
SECONDS = np.linspace(0.3, 25, 20)
ROUNDS = 3
BATCH = 4


def timed(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def pad_to_300_seconds(clips, extractor) -> None:
    extractor(
        clips,
        sampling_rate=RATE_HZ,
        padding="max_length",
        max_length=300 * RATE_HZ,
        truncation=False,
        return_attention_mask=True,
        return_tensors="pt",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    smoke = parser.parse_args().smoke
    extractor = WhisperFeatureExtractor(feature_size=128)
    generator = np.random.default_rng(0)
    clips = [generator.normal(size=round(s * RATE_HZ)).astype(np.float32) for s in (SECONDS[:4] if smoke else SECONDS)]
    batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    for way in (pad_to_300_seconds, extract_features):  # first use pays for imports and windows
        way(clips[:1], extractor)
    ratios = []
    for _ in range(1 if smoke else ROUNDS):
        padded = sum(timed(pad_to_300_seconds, batch, extractor) for batch in batches)
        ours = sum(timed(extract_features, batch, extractor) for batch in batches)
        ratios.append(padded / ours)
        print(f"20 clips of 0.3 to 25 s: padded {padded:.2f} s, ours {ours:.2f} s, {padded / ours:.1f} times faster")
    print(f"median {statistics.median(ratios):.1f} times faster")


if __name__ == "__main__":
    main()
