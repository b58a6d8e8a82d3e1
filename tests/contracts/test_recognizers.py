"""The contract of every recognizer: registered, fake and broken."""

import numpy as np
import pytest

from data_builders.arguments import VerificationArguments
from data_builders.audio import resample_speech
from data_builders.speech.tts.espeak import EspeakEngine
from data_builders.speech.verification import RECOGNIZERS, SpeechVerifier
from tests.support.tiny_whisper import save_tiny_whisper

SENTENCES = ["What is the capital of Norway?", "Which animal barks at strangers?", "Is honey older than sugar?"]


@pytest.fixture(scope="module")
def clips():
    engine = EspeakEngine()
    spoken = [resample_speech(*engine.synthesize(sentence, "en-us")) for sentence in SENTENCES]
    engine.close()
    return spoken


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Load a verifier with a recognizer by name."""

    def start_verifier(name):
        for fake in ("LengthRecognizer", "ForgetfulRecognizer"):
            monkeypatch.setitem(RECOGNIZERS, fake, f"tests.support.fakes:{fake}")
        model = save_tiny_whisper(tmp_path / "whisper") if name == "whisper" else "unused"
        return SpeechVerifier(VerificationArguments(recognizer=name, recognizer_model=model))

    return start_verifier


def check_verifier(verifier, clips):
    """Assert the contract of `Recognizer`."""
    recognizer = verifier.recognizer
    assert isinstance(recognizer.name, str)
    assert recognizer.set_size is None or recognizer.set_size >= 2
    transcripts = recognizer.transcribe(clips, SENTENCES)
    assert len(transcripts) == len(clips)
    assert all(isinstance(transcript, str) for transcript in transcripts)
    assert recognizer.transcribe(clips, SENTENCES) == transcripts
    silence = np.zeros(16_000, np.float32)
    assert len(recognizer.transcribe([silence], SENTENCES)) == 1
    checks = verifier.check(clips, SENTENCES, SENTENCES, SENTENCES)
    assert [check.transcript for check in checks] == transcripts
    assert verifier.check([silence], SENTENCES[:1], SENTENCES[:1], SENTENCES)[0].reject(9.0, 0.0).code == "silent"
    verifier.close()


@pytest.mark.parametrize("name", [*RECOGNIZERS, "LengthRecognizer"])
def test_a_recognizer_keeps_the_contract(start, clips, name):
    """Prevents: transcripts of other clips, or a build that differs after a resume."""
    check_verifier(start(name), clips)


def test_the_contract_finds_a_broken_recognizer(start, clips):
    """Prevents: a contract that accepts everything."""
    with pytest.raises(AssertionError):
        check_verifier(start("ForgetfulRecognizer"), clips)
