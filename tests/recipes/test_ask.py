"""Tests of recipes/ask.py with text and with audio files of many formats."""

import io

import numpy as np
import pytest
import soundfile
import soxr
from peft import LoraConfig, PeftModel

from data_builders.audio import decode_speech, encode_speech
from data_builders.schema import SPEECH_RATE_HZ
from tests.support.answers import answer_rows
from tests.support.run_script import run_script

HELD_BY_SOUNDFILE = {"wav", "flac", "ogg", "mp3"}


@pytest.fixture
def ask(monkeypatch, capsys, lab_student):
    def run(*words: str, model: str | None = lab_student) -> tuple[str, str]:
        named = [] if model is None else ["--model_name_or_path", model]
        return run_script("ask.py", [*named, "--dtype", "float32", *words], monkeypatch, capsys)

    return run


@pytest.fixture(scope="module")
def heard(pristine_student, family, pairs):
    """Return a clip that the lab's student answers correctly also with noise and delay, and its answer."""
    rows = pairs["train"]
    noisy = rows.map(disturb)
    answers = [answer_rows(pristine_student, family, some, "s2t", 24) for some in (rows, noisy)]
    for row, *given in zip(rows, *answers, strict=True):
        if given == [row["teacher_response"]] * 2:
            return decode_speech(row["speech"], row["id"]), given[0]
    raise AssertionError("the lab's student hears nothing at all")


def disturb(row):
    samples = np.pad(decode_speech(row["speech"], row["id"]), (SPEECH_RATE_HZ // 15, 0))
    noise = np.random.default_rng(0).normal(size=len(samples)) * samples.std() / 20
    return {"speech": {"bytes": encode_speech(samples + noise), "path": None}}


def write(samples: np.ndarray, file, rate_hz: int = SPEECH_RATE_HZ, channels: int = 1) -> str:
    if rate_hz != SPEECH_RATE_HZ:
        samples = soxr.resample(samples, SPEECH_RATE_HZ, rate_hz)
    soundfile.write(file, np.stack([samples] * channels, axis=1), rate_hz)
    return str(file)


@pytest.mark.parametrize("ending", sorted(HELD_BY_SOUNDFILE))
@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (48_000, 2), (44_100, 1)])
def test_audio_files_of_any_format_are_read_as_one_clip(ask, heard, tmp_path, ending, rate_hz, channels):
    """Prevents: 48 kHz read as 16 kHz, or two channels read one after the other."""
    samples, answer = heard
    said, refusal = ask("--audio", write(samples, tmp_path / f"q.{ending}", rate_hz, channels))
    assert not refusal
    assert said.strip() == answer


def test_an_8_khz_recording_is_answered(ask, heard, tmp_path):
    """Prevents: a refusal of telephone recordings."""
    said, refusal = ask("--audio", write(heard[0], tmp_path / "q.wav", 8_000))
    assert not refusal
    assert said.strip()


def test_a_written_question_is_answered_with_the_adapter_and_without(
    ask, family, pristine_student, tmp_path, lab_student
):
    """Prevents: an adapter that makes answers worse unnoticed."""
    config = LoraConfig(
        target_modules=family.lora_target_modules, r=4, init_lora_weights=False,
        task_type="CAUSAL_LM", base_model_name_or_path=lab_student,
    )  # fmt: skip
    model = family.load_model(lab_student, dtype="float32")
    PeftModel(model, config).save_pretrained(str(tmp_path / "adapter"))
    words = ("--adapter", str(tmp_path / "adapter"), "--question", "What is two plus three?")
    said, refusal = ask(*words, model=None)
    assert not refusal
    untouched, trained = said.strip().splitlines()
    assert untouched == "untouched: Two plus three is five."
    assert trained.startswith("trained:")
    in_4bit, refusal = ask(*words, "--load_in_4bit", model=None)
    assert not refusal
    assert in_4bit.startswith("untouched: ")


@pytest.mark.parametrize("with_adapter", [False, True])
def test_the_full_model_speaks_its_answer(ask, tiny_omni, family, tmp_path, with_adapter):
    """Prevents: speech of the untrained thinker: the talker must follow the trained one."""
    words = ["--question", "What is two plus three?", "--speak", str(tmp_path / "answer.wav")]
    if with_adapter:
        config = LoraConfig(target_modules=family.lora_target_modules, r=4, init_lora_weights=False)
        PeftModel(family.load_model(str(tiny_omni)), config).save_pretrained(str(tmp_path / "a"))
        words += ["--adapter", str(tmp_path / "a")]
    said, refusal = ask(*words, "--max_new_tokens", "8", model=str(tiny_omni))
    assert not refusal
    assert "spoken in" in said
    samples, rate_hz = soundfile.read(tmp_path / "answer.wav")
    assert rate_hz == 24_000
    assert len(samples) > 1000


def test_unreadable_audio_is_refused_in_one_line(ask, tmp_path):
    """Prevents: an answer to a clip that was cut or padded with silence."""
    noise = np.random.default_rng(0).normal(size=301 * SPEECH_RATE_HZ).astype(np.float32) / 10
    assert "is 301.0 s long" in ask("--audio", write(noise, tmp_path / "long.flac"))[1]
    assert "zero length" in ask("--audio", write(noise[:0], tmp_path / "empty.wav"))[1]
    assert "too short" in ask("--audio", write(noise[:100], tmp_path / "short.wav"))[1]
    (tmp_path / "text.mp3").write_text("no sound at all")
    assert "cannot be read" in ask("--audio", str(tmp_path / "text.mp3"))[1]
    assert "no file" in ask("--audio", str(tmp_path / "nowhere.wav"))[1]


def test_missing_arguments_are_named_in_one_line(ask, lab_student):
    """Prevents: loading a model before a missing argument is reported."""
    assert "--question" in ask()[1]
    assert "one of them" in ask("--question", "Q", "--audio", "q.wav")[1]
    assert "name the model by" in ask("--question", "Q", model=None)[1]
    assert "cannot speak" in ask("--question", "Q", "--speak", "a.wav")[1]


@pytest.mark.parametrize("ending", sorted(HELD_BY_SOUNDFILE))
def test_training_reads_any_file_too(make_trainer, pairs, heard, ending):
    """Prevents: refusing people's own recordings, which are stereo, 48 kHz and mp3."""
    samples, _ = heard
    buffer = io.BytesIO()
    stereo = np.stack([soxr.resample(samples, SPEECH_RATE_HZ, 48_000)] * 2, axis=1)
    soundfile.write(buffer, stereo, 48_000, format=ending.upper())
    row = {**pairs["train"][0], "speech": {"bytes": buffer.getvalue(), "path": None}}
    batch = make_trainer().data_collator([row])
    clean = decode_speech(row["speech"], row["id"])
    assert abs(len(clean) - len(samples)) < 0.1 * SPEECH_RATE_HZ
    assert batch["feature_attention_mask"].sum() == -(-len(clean) // 160)
