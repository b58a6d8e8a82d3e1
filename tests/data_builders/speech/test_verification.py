"""What a recognizer hears, and what that is worth."""

import json
import random
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

from data_builders.arguments import BuildArguments
from data_builders.audio import resample_speech
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.speech.asr.pocketsphinx import PocketsphinxRecognizer
from data_builders.speech.augmentation import Noise
from data_builders.speech.tts.espeak import EspeakEngine
from data_builders.speech.verification import Check, SpeechVerifier, find_recognizer, listen
from data_builders.speech.wer import WordErrorRate, load_normalizer, measure_wer

GOLDEN = Path(__file__).with_name("whisper_normalized.jsonl")
ROOT = Path(__file__).parents[3]
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
    spoken = [
        resample_speech(*engine.synthesize(question, voices[i % 2]))
        for i, question in enumerate(QUESTIONS)
    ]
    engine.close()
    return spoken


@pytest.fixture(scope="module")
def recognizer():
    return PocketsphinxRecognizer()


def mean_wer(heard, said=QUESTIONS):
    return np.mean(
        [measure_wer(words, question) for words, question in zip(heard, said, strict=True)]
    )


def test_right_clips_are_heard_and_wrong_ones_are_not(clips, recognizer):
    """A check that passes everything, or nothing."""
    heard = recognizer.hear(clips, list(QUESTIONS))
    assert mean_wer(heard) < 0.15
    swapped = [measure_wer(words, QUESTIONS[i - 1]) for i, words in enumerate(heard)]
    assert min(swapped) > 0.5


def test_noise_is_heard_as_noise(clips, recognizer):
    """Word error rate that does not rise with noise measures something else."""
    rates = []
    for snr in (20.0, 0.0, -10.0):
        noise = Noise(["noise"], [snr, snr])
        noisy = [noise.apply(clip, str(i)) for i, clip in enumerate(clips)]
        rates.append(mean_wer(recognizer.hear(noisy, list(QUESTIONS))))
    assert rates[0] < 0.3 < rates[2]
    assert rates == sorted(rates)


def test_what_is_heard_depends_on_the_clip_alone(clips, recognizer):
    """The decoder adapts to what it heard before: a resumed build would not be the same build."""
    forwards = recognizer.hear(clips, list(QUESTIONS))
    backwards = PocketsphinxRecognizer().hear(clips[::-1], list(QUESTIONS))[::-1]
    assert forwards == backwards == recognizer.hear(clips, list(QUESTIONS))


def test_a_question_alone_can_be_heard_wrong(clips, recognizer):
    """A language model of one sentence hears that sentence in anything."""
    assert measure_wer(recognizer.hear([clips[0]], [QUESTIONS[0]])[0], QUESTIONS[0]) < 0.5
    assert measure_wer(recognizer.hear([clips[1]], [QUESTIONS[0]])[0], QUESTIONS[0]) > 0.5


def test_a_word_without_pronunciation_does_not_stop_the_set(clips, recognizer):
    """One name in fifty questions, and the decoder refuses them all."""
    heard = recognizer.hear([clips[0]], [*QUESTIONS, "Who is Xqzrt Blorptyk?"])
    assert measure_wer(heard[0], QUESTIONS[0]) < 0.5


def check(clip, text, **changes):
    arguments = BuildArguments(questions="x", **changes)
    checker = SpeechVerifier(arguments)
    (found,) = checker.check([clip], [text], [text], [text])
    assert Check.unpack(found.pack()) == found
    return found.rejection_reason(arguments)


def tone(seconds, level=0.3):
    return (level * np.sin(np.arange(int(seconds * SPEECH_RATE_HZ)) / 7)).astype(np.float32)


@pytest.mark.parametrize(
    ("distort", "fault"),
    [
        (lambda clip: clip, None),
        (lambda clip: np.zeros(2 * SPEECH_RATE_HZ, np.float32), "silent"),
        (lambda clip: clip * 1e-4, "silent"),
        (lambda clip: np.clip(clip * 100, -1, 1), "clipped"),
        (lambda clip: np.concatenate([clip, np.zeros(3 * SPEECH_RATE_HZ, np.float32)]), "long pause"),
        (lambda clip: clip[: len(clip) // 6], "speaking rate"),
        (lambda clip: np.concatenate([clip] * 8), "speaking rate"),
        (lambda clip: tone(2.0), "word error rate"),
        (lambda clip: clip[::-1].copy(), "word error rate"),
    ],
)  # fmt: skip
def test_a_bad_clip_is_told_by_its_fault(clips, distort, fault):
    """What a TTS engine does when it fails: nothing, noise, babble, half of it, the same again and again."""
    assert check(distort(clips[0]), QUESTIONS[0]) == fault


def test_an_empty_clip_has_figures_too():
    """Zero samples divide by zero."""
    assert listen(np.zeros(0, np.float32), "hello")["loudness"] == 0


def test_the_normaliser_is_whispers():
    """Rates that no other paper's can be compared with. Made by openai-whisper 20250625's EnglishTextNormalizer."""
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
    """By hand."""
    assert measure_wer(heard, said) == pytest.approx(rate)


def test_the_metric_is_one_of_evaluates_and_works_offline():
    """`evaluate.load("wer")` asks the Hub; a cluster's nodes have no network."""
    metric = evaluate.combine([WordErrorRate(keep_in_memory=True)])
    told = metric.compute(predictions=["the red fox", "a"], references=["the red dog", "a!"])
    assert told["wer"] == pytest.approx(0.25)


def test_an_unknown_recogniser_names_the_known(tmp_path):
    """A typing error, after the speech."""
    with pytest.raises(ValueError, match="pocketsphinx, whisper, and none"):
        find_recognizer(BuildArguments(questions="x", recognizer="wisper"))


def save_tiny_whisper(folder: Path, multilingual: bool = True) -> str:
    """Write a Whisper in the published layout with random weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|en|>",
        "<|transcribe|>",
        "<|translate|>",
        "<|notimestamps|>",
    ]
    vocabulary = {token: i for i, token in enumerate([*letters, *special])}
    bpe = Tokenizer(models.BPE(vocabulary, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer = WhisperTokenizer(
        tokenizer_object=bpe, vocab=vocabulary, merges=[], language="en", task="transcribe"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special, "pad_token": special[0]})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=80,
        decoder_start_token_id=ids["<|startoftranscript|>"], eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"], max_target_positions=64,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"], eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"], is_multilingual=multilingual, lang_to_id={"<|en|>": ids["<|en|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"], max_length=12,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("multilingual", [True, False])
def test_whisper_is_one_line_of_the_config(clips, tmp_path, multilingual):
    """Prevents: a checkpoint that fails on its first clip; whisper-*.en refuses the option `language`."""
    model = save_tiny_whisper(tmp_path / "whisper", multilingual)
    arguments = BuildArguments(questions="x", recognizer="whisper", recognizer_model=model)
    checker = SpeechVerifier(arguments)
    assert find_recognizer(arguments).set_size is None
    first = checker.recognizer.hear(clips[:3], [])
    assert len(first) == 3
    assert first == checker.recognizer.hear(clips[:3], [])


def test_similarity_compares_what_was_heard_with_the_question(clips, tmp_path):
    """Two words of six wrong may be harmless, or the opposite; a sentence model tells them apart."""
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
    checker = SpeechVerifier(
        BuildArguments(questions="x", similarity_model=str(tmp_path / "sbert"))
    )
    same, other = checker._measure_similarity([QUESTIONS[0], "zzz"], [QUESTIONS[0], QUESTIONS[1]])
    assert same == pytest.approx(1, abs=1e-3)
    assert other < same


def test_recognition_needs_no_network():
    """A node of a cluster, behind a wall."""
    script = "import socket; socket.socket.connect = None\n"
    script += "from data_builders.speech.asr.pocketsphinx import PocketsphinxRecognizer\n"
    script += "import numpy as np; print(PocketsphinxRecognizer().hear([np.zeros(16000, 'float32')], ['hello there']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "['']", done.stderr


def test_a_swapped_clip_is_found_among_its_neighbours():
    """One in twenty clips belongs to another row: a bug in a cache, a queue that lost its order."""
    lines = (ROOT / "recipes" / "tiny_lab" / "questions.jsonl").read_text().splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    chosen = random.Random(0).sample(questions, 30) + list(QUESTIONS)
    engine = EspeakEngine()
    clips = [resample_speech(*engine.synthesize(question, "en-us")) for question in chosen]
    engine.close()
    clips[3], clips[17] = clips[17], clips[3]
    arguments = BuildArguments(questions="x")
    checks = SpeechVerifier(arguments).check(clips, chosen, chosen, chosen)
    found = [i for i, check in enumerate(checks) if check.rejection_reason(arguments) is not None]
    assert {3, 17} <= set(found)
    assert len(found) <= 6
