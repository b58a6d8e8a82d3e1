"""Tests of voices of several engines in one data set."""

import numpy as np
import pytest

from data_builders.arguments import SpeechArguments
from data_builders.speech.tts.espeak import EspeakEngine
from data_builders.speech.tts.several import SeveralEngines


@pytest.mark.parametrize("voice", ["en-us", "nothing:en-us", "espeak:", "server:alba", "several:espeak:en-us"])
def test_a_voice_names_its_engine(voice):
    """Prevents: a build that stops at the first clip of an unknown engine."""
    with pytest.raises(ValueError, match=r"write engine:voice, with one of espeak, flite, pocket"):
        SeveralEngines.check_voices([voice])


def test_each_engine_checks_its_own_voices():
    """Prevents: a misspelled voice found after the answers of a night."""
    SeveralEngines.check_voices(["espeak:en-us+f2/150"])
    with pytest.raises(ValueError, match="no voice 'xx'"):
        SeveralEngines.check_voices(["espeak:en-us", "espeak:xx"])


def test_a_clip_is_that_of_its_engine():
    """Prevents: clips that change when another engine is added to a data set."""
    several, espeak = SeveralEngines.from_arguments(SpeechArguments(speech_engine="several")), EspeakEngine()
    found, rate_hz = several.synthesize("Who are you?", "espeak:en-us+m3/150")
    wanted, wanted_rate_hz = espeak.synthesize("Who are you?", "en-us+m3/150")
    assert rate_hz == wanted_rate_hz
    assert np.array_equal(found, wanted)
    several.close()
    espeak.close()
