"""Tests of the Flite engine."""

import shutil

import numpy as np
import pytest

from data_builders.speech.tts.flite import FliteEngine, FliteVoice

TEXT = "What is the capital of Norway?"
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="apt-get install flite, or brew install flite")


@pytest.mark.parametrize("voice", ["", "slt/", "slt/0.1", "slt/1/1/1", "slt/fast", "slt/nan", "/1.0"])
def test_a_malformed_voice_is_refused_with_an_example(voice):
    """Prevents: every clip of a build in the default voice."""
    with pytest.raises(ValueError, match=r"write speaker\[/stretch\[/pitch\]\], .* rms/1.2/0.9"):
        FliteVoice.parse(voice)


def test_a_missing_program_is_named_with_its_package(monkeypatch):
    """Prevents: a FileNotFoundError for every clip."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="flite is not installed: apt-get install flite"):
        FliteEngine()


@needs_flite
def test_an_unknown_speaker_is_refused_by_name():
    """Prevents: another speaker's voice, which the program takes without a word."""
    with pytest.raises(ValueError, match=r"no speaker 'nope'; it has .*slt"):
        FliteEngine.check_voices(["slt", "nope"])


@needs_flite
def test_stretch_and_pitch_change_the_clip():
    """Prevents: twenty voices that are one."""
    engine = FliteEngine()
    plain, rate_hz = engine.synthesize(TEXT, "slt")
    slow, _ = engine.synthesize(TEXT, "slt/1.4")
    low, _ = engine.synthesize(TEXT, "slt/1.0/0.7")
    assert len(slow) > 1.2 * len(plain)
    assert len(low) == pytest.approx(len(plain), rel=0.05)
    assert not np.array_equal(low, plain[: len(low)])
    assert rate_hz == 16_000


@needs_flite
@pytest.mark.parametrize("text", ["-voice kal -o /tmp/other.wav", "@file", "Äpfel & <b>東京</b>", "don't; echo $HOME"])
def test_what_people_write_is_text(text):
    """Prevents: a question that is read as an argument."""
    engine = FliteEngine()
    samples, _ = engine.synthesize(text, "slt")
    assert len(samples) > 4_000
