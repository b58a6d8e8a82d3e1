"""Tests of espeak-ng: repeatable clips, voices, and a helper process that may crash."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_builders.audio import decode_speech, encode_speech, resample_speech
from data_builders.speech.tts.espeak import EspeakEngine, EspeakVoice


@pytest.fixture
def engine():
    engine = EspeakEngine()
    yield engine
    engine.close()


def test_equal_calls_give_equal_samples_in_any_order(engine):
    """Prevents: a data set that cannot be rebuilt: espeak-ng keeps state between calls in one process."""
    texts = ["What is one plus one?", "Which animal barks?", "What comes after Monday?"]
    first = [engine.synthesize(text, "en-us+f1/150/60")[0] for text in texts]
    other = EspeakEngine()
    again = [other.synthesize(text, "en-us+f1/150/60")[0] for text in reversed(texts)][::-1]
    other.close()
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert all(len(samples) > 10_000 and np.abs(samples).max() > 0.1 for samples in first)


def test_a_voice_with_noise_is_repeatable(engine):
    """Prevents: two workers making two data sets: some variants draw noise, by default seeded from the clock."""
    first = engine.synthesize("What is one plus one?", "en-gb-x-rp+f2/160/60")[0]
    time.sleep(1.1)
    other = EspeakEngine()
    again = other.synthesize("What is one plus one?", "en-gb-x-rp+f2/160/60")[0]
    other.close()
    assert np.array_equal(first, again)


def test_voice_speed_and_pitch_change_the_clip(engine):
    """Prevents: single-speaker data from a voice string that is parsed and ignored."""
    voices = ["en-us", "en-us+f2", "en-gb-x-rp", "en-us/120", "en-us/170/90"]
    clips = [engine.synthesize("What is one plus one?", voice)[0].tobytes() for voice in voices]
    assert len(set(clips)) == len(voices)


@pytest.mark.parametrize(
    ("text", "voice", "error", "message"),
    [
        ("", "en-us", ValueError, "empty text"),
        ("a\0b", "en-us", ValueError, "NUL"),
        ("hello", "en-us/fast", ValueError, "variant"),
        ("hello", "en-us/20", ValueError, "80-450"),
        ("hello", "klingon-x", ValueError, "no voice 'klingon-x'"),
    ],
)
def test_unsupported_text_is_refused_with_the_way_out(engine, text, voice, error, message):
    """Prevents: silent clips, which a model learns to answer."""
    with pytest.raises(error, match=message):
        engine.synthesize(text, voice)


def test_the_engine_restarts_its_helper_process(engine):
    """Prevents: losing a run of 40,000 texts to one that crashes the synthesizer."""
    before = engine.synthesize("hello", "en-us")[0]
    os.kill(engine._helper.pid, signal.SIGKILL)
    with pytest.raises((RuntimeError, BrokenPipeError)):
        engine.synthesize("hello", "en-us")
    engine.close()
    assert np.array_equal(before, engine.synthesize("hello", "en-us")[0])


def test_without_espeak_both_ways_to_get_it_are_named(tmp_path):
    """Prevents: an import error without instructions, the most likely first error of a newcomer."""
    script = "import sys; sys.modules['espeakng_loader'] = None; import importlib.util as u; real = u.find_spec\n"
    script += "u.find_spec = lambda name, *a: None if name == 'espeakng_loader' else real(name, *a)\n"
    script += "from data_builders.speech.tts.espeak import EspeakEngine; EspeakEngine()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert 'pip install -e ".[espeak]"' in done.stderr
    assert "apt-get install espeak-ng" in done.stderr


def test_flac_keeps_16_bit_samples_exactly(engine):
    """Prevents: lossy or 8-bit speech."""
    samples = resample_speech(*engine.synthesize("What is one plus one?", "en-us"))
    again = decode_speech({"bytes": encode_speech(samples), "path": None}, "x")
    assert len(again) == len(samples)
    assert np.abs(again - np.clip(samples, -1, 1)).max() <= 1 / 32768


def test_a_voice_string_is_parsed_field_by_field():
    """Prevents: speed and pitch swapped, which are both numbers."""
    assert EspeakVoice.parse("en-us+f3/150/40") == ("en-us+f3", 150, 40)
    assert json.dumps(EspeakVoice.parse("en-us")) == '["en-us", 170, 50]'
