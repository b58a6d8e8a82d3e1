"""The contract of every TTS engine: registered, fake and broken."""

import shutil

import numpy as np
import pytest

from data_builders.arguments import SpeechArguments
from data_builders.speech.synthesis import TTS_ENGINES, load_engine, synthesize_clip
from tests.support.tiny_pocket import save_tiny_pocket, save_voice

TEXT, OTHER = "What comes after Wednesday?", "Who are you?"


@pytest.fixture
def start(request, monkeypatch, tmp_path):
    """Start an engine by name; returns it with one of its voices."""

    def start_engine(name):
        if name == "server":
            url = request.getfixturevalue("speech_server").url
            arguments = SpeechArguments(speech_engine=name, speech_base_url=url, speech_model="espeak")
            return load_engine(arguments), "en-us"
        if name == "pocket":
            pytest.importorskip("pocket_tts", reason="pip install -e '.[pocket]'")
            arguments = SpeechArguments(speech_engine=name, speech_model=save_tiny_pocket(tmp_path))
            return load_engine(arguments), save_voice(tmp_path / "voice.wav")
        if name == "flite":
            if shutil.which("flite") is None:
                pytest.skip("apt-get install flite, or brew install flite")
            return load_engine(SpeechArguments(speech_engine=name)), "slt/1.1/0.9"
        if name == "several":
            return load_engine(SpeechArguments(speech_engine=name)), "espeak:en-us"
        for fake in ("BeepEngine", "RandomEngine"):
            monkeypatch.setitem(TTS_ENGINES, fake, f"tests.support.fakes:{fake}")
        return load_engine(SpeechArguments(speech_engine=name)), "en-us"

    return start_engine


def check_engine(engine, voice):
    """Assert the contract of `SpeechEngine`."""
    assert isinstance(engine.name, str)
    assert engine.in_flight >= 1
    samples, rate_hz = engine.synthesize(TEXT, voice)
    assert samples.ndim == 1
    assert samples.dtype == np.float32
    assert 0 < np.abs(samples).max() <= 1.01
    assert rate_hz >= 8_000
    other, _ = engine.synthesize(OTHER, voice)
    again, _ = engine.synthesize(TEXT, voice)
    assert len(other) != len(samples) or not np.array_equal(other, samples)
    assert len(again) == len(samples)
    assert np.abs(again - samples).max() < 1e-5
    assert synthesize_clip(engine, TEXT, voice)[:4] == b"fLaC"
    rejected = synthesize_clip(engine, "  ", voice)
    assert (rejected.stage, rejected.code) == ("speech", "not_spoken")
    engine.close()


@pytest.mark.parametrize("name", [*TTS_ENGINES, "BeepEngine"])
def test_an_engine_keeps_the_contract(start, name):
    """Prevents: an engine that a build cannot resume, or that stops it at an empty text."""
    check_engine(*start(name))


def test_the_contract_finds_a_broken_engine(start):
    """Prevents: a contract that accepts everything."""
    with pytest.raises(AssertionError):
        check_engine(*start("RandomEngine"))
