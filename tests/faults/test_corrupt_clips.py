"""Attacks by clips: 200 corrupt ones by default, 2,000 with CROSSMODAL_KD_ATTACKS=10."""

import os
import random
import resource
import time

import numpy as np
import pytest

from data_builders.audio import MAX_VALUES, count_samples, decode_speech, measure_clip
from tests.support.attacks import SCALE
from tests.support.corrupt_clips import WHOLE, corrupt
from trainer_ext.evaluation.asking import read_clip

CLIPS = 200 * SCALE
MAX_GROWTH_MB = 2 * MAX_VALUES * 4 / 1e6  # the samples, and their copy as mono at 16 kHz


@pytest.mark.parametrize("kind", list(WHOLE))
def test_a_whole_clip_is_read(kind):
    """Prevents: bounds that refuse what people record."""
    cell = {"bytes": WHOLE[kind], "path": None}
    assert measure_clip(cell, "a") == pytest.approx(0.5, abs=0.1)
    assert len(decode_speech(cell, "a")) == pytest.approx(8_000, abs=1_600)


def test_corrupt_clips_are_errors_by_row(tmp_path, capsys):
    """Prevents: crashes, hangs and gigabytes for clips of others, and samples that are no sound."""
    chance, refused, slowest = random.Random(SCALE), 0, 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(CLIPS):
        content = corrupt(chance)
        cell = {"bytes": content, "path": None}
        (tmp_path / "clip.wav").write_bytes(content)
        start, failed = time.monotonic(), 0
        for read in (measure_clip, count_samples, decode_speech):
            try:
                found = read(cell, f"r{number}")
            except ValueError as error:
                assert str(error).startswith(f"row r{number}: ")
                failed += 1
            else:
                assert not isinstance(found, np.ndarray) or np.isfinite(found).all()
        try:
            read_clip(str(tmp_path / "clip.wav"), 30.0, "the clip")
        except ValueError as error:
            assert str(error).startswith("the clip")
        refused += failed > 0
        slowest = max(slowest, time.monotonic() - start)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    with capsys.disabled():
        print(f"\n{CLIPS} corrupt clips: {refused} refused, slowest {slowest:.2f} s, peak memory +{growth:.0f} MB")
    assert refused > CLIPS / 2
    assert slowest < 5
    assert growth < MAX_GROWTH_MB


@pytest.mark.parametrize("path", ["/dev/zero", "/etc", "/nowhere", "", "fifo"])
def test_a_path_that_is_no_file_is_refused_at_once(tmp_path, path):
    """Prevents: a FIFO in a data set that holds a training for ever."""
    if path == "fifo":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
    for read in (measure_clip, count_samples, decode_speech):
        with pytest.raises(ValueError, match="row a: its speech cannot be read"):
            read({"bytes": None, "path": path}, "a")
