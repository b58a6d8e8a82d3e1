"""Tests of recognizers, of the measures of a clip, and of the verdicts on it."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_builders.arguments import VerificationArguments
from data_builders.audio import resample_speech
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.speech.asr.pocketsphinx import PocketsphinxRecognizer, list_transitions
from data_builders.speech.augmentation import Augmenter
from data_builders.speech.measures import measure_audio
from data_builders.speech.tts.espeak import EspeakEngine
from data_builders.speech.verification import SpeechCheck, SpeechVerifier, find_recognizer
from data_builders.speech.wer import compare_words, load_normalizer
from tests.support.lab import ROOT
from tests.support.tiny_whisper import save_tiny_whisper

GOLDEN = Path(__file__).with_name("whisper_normalized.jsonl")
QUESTIONS = (
    "What is the capital of Norway?", "Which animal barks at strangers?", "Who wrote the story of the whale?",
    "How do I water a cactus in winter?", "Tell me a joke about a plumber.", "What comes after Wednesday?",
    "Why do leaves turn red in autumn?", "Where does the river meet the sea?", "When did the war end?",
    "Name three kinds of bread.", "Is honey older than sugar?", "What would happen without the moon?",
)  # fmt: skip


@pytest.fixture(scope="module")
def clips():
    engine = EspeakEngine()
    voices = ("en-us", "en-gb-x-rp+f2/160/60")
    spoken = [resample_speech(*engine.synthesize(question, voices[i % 2])) for i, question in enumerate(QUESTIONS)]
    engine.close()
    return spoken


@pytest.fixture(scope="module")
def recognizer():
    return PocketsphinxRecognizer()


def measure_wer(actual, expected):
    return compare_words(load_normalizer()(actual), load_normalizer()(expected))


def mean_wer(heard, said=QUESTIONS):
    return np.mean([measure_wer(words, question) for words, question in zip(heard, said, strict=True)])


def test_right_clips_pass_and_wrong_clips_fail(clips, recognizer):
    """Prevents: a check that passes everything, or nothing."""
    heard = recognizer.transcribe(clips, list(QUESTIONS))
    assert mean_wer(heard) < 0.15
    swapped = [measure_wer(words, QUESTIONS[i - 1]) for i, words in enumerate(heard)]
    assert min(swapped) > 0.5


def test_word_error_rate_rises_with_noise(clips, recognizer):
    """Prevents: a word error rate that measures something else."""
    rates = []
    for snr in (20.0, 0.0, -10.0):
        noise = Augmenter(["noise"], [snr, snr])
        noisy = [noise.apply(clip, str(i)) for i, clip in enumerate(clips)]
        rates.append(mean_wer(recognizer.transcribe(noisy, list(QUESTIONS))))
    assert rates[0] < 0.3 < rates[2]
    assert rates == sorted(rates)


def test_a_transcript_depends_on_the_clip_alone(clips, recognizer):
    """Prevents: a resumed build that differs: the decoder adapts to the clips before."""
    forwards = recognizer.transcribe(clips, list(QUESTIONS))
    backwards = PocketsphinxRecognizer().transcribe(clips[::-1], list(QUESTIONS))[::-1]
    assert forwards == backwards == recognizer.transcribe(clips, list(QUESTIONS))


def test_a_single_question_can_fail_verification(clips, recognizer):
    """Prevents: a language model of one sentence, which recognizes that sentence in any clip."""
    assert measure_wer(recognizer.transcribe([clips[0]], [QUESTIONS[0]])[0], QUESTIONS[0]) < 0.5
    assert measure_wer(recognizer.transcribe([clips[1]], [QUESTIONS[0]])[0], QUESTIONS[0]) > 0.5


def test_a_word_without_pronunciation_does_not_stop_the_set(clips, recognizer):
    """Prevents: one name in fifty questions that makes the decoder refuse them all."""
    heard = recognizer.transcribe([clips[0]], [*QUESTIONS, "Who is Xqzrt Blorptyk?"])
    assert measure_wer(heard[0], QUESTIONS[0]) < 0.5


def test_a_set_without_any_known_word_recognizes_none_of_its_sentences(clips, recognizer):
    """Prevents: a decoder without a word, which fails, for a set of fifty names."""
    unknown = [f"xqzrt{'a' * number} blorptyk" for number in range(30)]
    assert all(words not in unknown for words in recognizer.transcribe(clips[:2], unknown))


def test_a_clip_that_breaks_off_is_not_its_question(clips, recognizer):
    """Prevents: an engine that stops in the middle, and a grammar that takes the beginning for the whole."""
    halves = [clip[: len(clip) // 2] for clip in clips]
    heard = recognizer.transcribe(halves, list(QUESTIONS))
    assert min(measure_wer(words, question) for words, question in zip(heard, QUESTIONS, strict=True)) > 0.5


@pytest.mark.parametrize("sentences", [[("yes",)], [("a", "b"), ("a", "b", "c"), ("c",)]])
def test_the_paths_of_the_grammar_are_the_sentences(sentences):
    """Prevents: sentences that share a state, so that the beginning of one goes on as another."""
    transitions, end = list_transitions(sentences)
    paths, open_paths = [], [((), 0)]
    while open_paths:
        words, state = open_paths.pop()
        for start, following, _, word in transitions:
            if start == state:
                (paths if following == end else open_paths).append(
                    (*words, word) if following == end else ((*words, word), following)
                )
    assert sorted(paths) == sorted(sentences)


def check(clip, text, **changes):
    arguments = VerificationArguments(**changes)
    checker = SpeechVerifier(arguments)
    (found,) = checker.check([clip], [text], [text], [text])
    assert SpeechCheck.unpack(found.pack()) == found
    rejected = found.reject(arguments.max_wer, arguments.min_similarity)
    return rejected and rejected.code


def tone(seconds, level=0.3):
    return (level * np.sin(np.arange(int(seconds * SPEECH_RATE_HZ)) / 7)).astype(np.float32)


@pytest.mark.parametrize(
    ("distort", "fault"),
    [
        (lambda clip: clip, None),
        (lambda clip: np.zeros(2 * SPEECH_RATE_HZ, np.float32), "silent"),
        (lambda clip: clip * 1e-4, "silent"),
        (lambda clip: np.clip(clip * 100, -1, 1), "clipped"),
        (lambda clip: np.concatenate([clip, np.zeros(3 * SPEECH_RATE_HZ, np.float32)]), "long_pause"),
        (lambda clip: clip[: len(clip) // 6], "speaking_rate"),
        (lambda clip: np.concatenate([clip] * 8), "speaking_rate"),
        (lambda clip: tone(2.0), "word_error_rate"),
        (lambda clip: clip[::-1].copy(), "word_error_rate"),
    ],
)  # fmt: skip
def test_each_fault_of_a_clip_is_measured(clips, distort, fault):
    """Prevents: accepting the failures of TTS engines: silence, noise, babble, cut and repeated speech."""
    assert check(distort(clips[0]), QUESTIONS[0]) == fault


def test_an_empty_clip_has_measures():
    """Prevents: a division by zero samples."""
    assert measure_audio(np.zeros(0, np.float32), "hello")["loudness"] == 0


def test_text_is_normalized_as_whisper_does():
    """Prevents: word error rates that cannot be compared with others'. Expected values are from EnglishTextNormalizer
    of openai-whisper 20250625.
    """
    lines = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert len(lines) == 50
    for line in lines:
        assert load_normalizer()(line["text"]) == line["normalized"]


@pytest.mark.parametrize(
    ("heard", "said", "rate"),
    [
        ("what is the capital of norway", "What is the capital of Norway?", 0.0),
        ("two gray cats", "2 grey cats!", 0.0),
        ("", "What is it?", 1.0),
        ("anything", "", 1.0),
        ("", "", 0.0),
        ("a b c d", "a", 3.0),
        ("the red fox", "the red dog", 1 / 3),
    ],
)
def test_word_error_rate_counts_words(heard, said, rate):
    """Prevents: a wrong count of edits; the expected rates are worked out by hand."""
    assert measure_wer(heard, said) == pytest.approx(rate)


def test_an_unknown_recogniser_names_the_known(tmp_path):
    """Prevents: a typing error that is reported after the speech was made."""
    with pytest.raises(ValueError, match="pocketsphinx, whisper"):
        find_recognizer(VerificationArguments(recognizer="wisper"))


@pytest.mark.parametrize("multilingual", [True, False])
def test_whisper_is_one_line_of_the_config(clips, tmp_path, multilingual):
    """Prevents: a checkpoint that fails on its first clip; whisper-*.en refuses the option `language`."""
    model = save_tiny_whisper(tmp_path / "whisper", multilingual)
    arguments = VerificationArguments(recognizer="whisper", recognizer_model=model)
    checker = SpeechVerifier(arguments)
    assert find_recognizer(arguments).set_size is None
    first = checker.recognizer.transcribe(clips[:3], [])
    assert len(first) == 3
    assert first == checker.recognizer.transcribe(clips[:3], [])


def test_similarity_compares_the_transcript_with_the_question(clips, tmp_path):
    """Prevents: rejecting a clip for two harmless words, or keeping one whose meaning is reversed."""
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / "bert"
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz?.'"
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    transformer = models.Transformer(str(folder))
    SentenceTransformer(modules=[transformer, models.Pooling(16)]).save(str(tmp_path / "sbert"))
    checker = SpeechVerifier(VerificationArguments(similarity_model=str(tmp_path / "sbert")))
    same, other = checker._measure_similarity([QUESTIONS[0], "zzz"], [QUESTIONS[0], QUESTIONS[1]])
    assert same == pytest.approx(1, abs=1e-3)
    assert other < same


def test_recognition_needs_no_network():
    """Prevents: a failure on a cluster node without internet."""
    script = "import socket; socket.socket.connect = None\n"
    script += "from data_builders.speech.asr.pocketsphinx import PocketsphinxRecognizer\n"
    script += (
        "import numpy as np; print(PocketsphinxRecognizer().transcribe([np.zeros(16000, 'float32')], ['hello there']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "['']", done.stderr


@pytest.mark.slow
def test_swapped_clips_are_found():
    """Prevents: clips in other rows after an error in a cache or a queue."""
    lines = (ROOT / "recipes" / "tiny_lab" / "questions.jsonl").read_text().splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    chosen = random.Random(0).sample(questions, 30) + list(QUESTIONS)
    engine = EspeakEngine()
    clips = [resample_speech(*engine.synthesize(question, "en-us")) for question in chosen]
    engine.close()
    clips[3], clips[17] = clips[17], clips[3]
    arguments = VerificationArguments()
    checks = SpeechVerifier(arguments).check(clips, chosen, chosen, chosen)
    found = [i for i, check in enumerate(checks) if check.reject(arguments.max_wer, arguments.min_similarity)]
    assert {3, 17} <= set(found)
    assert len(found) <= 6
