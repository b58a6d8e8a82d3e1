"""Tests of the engine that calls Pocket TTS, with a model of random weights."""

import numpy as np
import pytest

pytest.importorskip("pocket_tts", reason="pip install -e '.[pocket]'")

from data_builders.arguments import SpeechArguments
from data_builders.speech.synthesis import load_engine
from tests.support.tiny_pocket import save_tiny_pocket, save_voice


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    config = save_tiny_pocket(tmp_path_factory.mktemp("pocket"))
    engine = load_engine(SpeechArguments(speech_engine="pocket", speech_model=config))
    yield engine
    engine.close()


@pytest.fixture
def clip(tmp_path):
    return save_voice(tmp_path / "voice.wav")


def test_equal_calls_give_equal_clips_in_any_order(engine, clip):
    """Prevents: a resumed build that differs from an uninterrupted one: the model samples."""
    one, rate_hz = engine.synthesize("Hello there.", clip)
    other, _ = engine.synthesize("Who are you?", clip)
    again, _ = engine.synthesize("Hello there.", clip)
    assert rate_hz == 24_000
    assert one.ndim == 1
    assert one.dtype == np.float32
    assert np.abs(one - again).max() < 1e-5  # frames are decoded in pieces whose size depends on the moment
    assert not np.array_equal(one[:1000], other[:1000])


def test_an_empty_text_is_refused(engine, clip):
    """Prevents: a clip of invented speech: a sampling model answers an empty text with several seconds."""
    with pytest.raises(ValueError, match="empty text"):
        engine.synthesize("  ", clip)
