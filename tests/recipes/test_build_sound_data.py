"""Tests of recipes/build_sound_data.py, and of a training with its data set."""

import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Audio, Features, Value

from data_builders.audio import decode_speech, encode_speech
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.dataset_folder import load_dataset_folder
from data_builders.storage.parquet import AtomicParquetWriter
from tests.support.lab import LAB, STUDENT, TEACHER, write_every
from tests.support.run_script import run_script

COLUMNS = Features(
    {
        **{name: Value("string") for name in ("ask", "answer", "kind")},
        "clip": Audio(sampling_rate=SPEECH_RATE_HZ, decode=False),
    }
)
MAPPING = ["--columns", "question=ask", "audio=clip", "reference=answer", "group=kind"]


@pytest.fixture(scope="module")
def lab_sounds():
    """The module recipes/tiny_lab/sounds.py."""
    sys.path.insert(0, str(LAB))
    try:
        import sounds
    finally:
        sys.path.remove(str(LAB))
    return sounds


@pytest.fixture(scope="module")
def source(tmp_path_factory, lab_sounds):
    """A folder of questions about sounds, the last of them asked twice."""
    folder = tmp_path_factory.mktemp("sounds")
    for split, count in (("train", 12), ("test", 4)):
        rng = random.Random(split)
        rows = []
        for sound in (lab_sounds.make_sound(rng) for _ in range(count)):
            clip = {"bytes": encode_speech(sound.samples), "path": None}
            rows.append({"ask": sound.question, "answer": sound.reference, "kind": sound.family, "clip": clip})
        with AtomicParquetWriter(folder / f"{split}.parquet", COLUMNS) as writer:
            for row in [*rows, rows[-1]]:
                writer.write(row)
            writer.close()
    return folder


@pytest.fixture
def build(source, tmp_path, monkeypatch, capsys):
    """Build the data set by the recipe; returns its folder, what it printed, and its error."""

    def build_with(*words):
        asked = ["--dataset_name", str(source), *MAPPING, "--test_split", "test", "--max_new_tokens", "64"]
        asked += ["--output_dir", str(tmp_path / "data"), "--cache_dir", str(tmp_path / "cache"), *words]
        return (tmp_path / "data", *run_script("build_sound_data.py", asked, monkeypatch, capsys))

    return build_with


def split_sound(samples: np.ndarray) -> list[np.ndarray]:
    """Return the parts of a sound between its silences."""
    windows = np.array_split(samples, len(samples) // (SPEECH_RATE_HZ // 50))
    loud = [bool(np.abs(window).max() > 0.01) for window in windows]
    runs = itertools.groupby(zip(loud, windows, strict=True), key=lambda pair: pair[0])
    return [np.concatenate([window for _, window in run]) for is_loud, run in runs if is_loud]


def test_the_answer_says_what_the_sound_is(lab_sounds):
    """Prevents: a lab whose student learns to be wrong."""
    rng = random.Random(0)
    for _ in range(20):
        beeps, pitch, loudness = (lab_sounds.make_sound(rng, name) for name in ("beeps", "pitch", "loudness"))
        assert beeps.reference.split()[0] == lab_sounds.COUNTS[len(split_sound(beeps.samples)) - 1]
        first, second = (np.mean(np.diff(np.sign(part)) != 0) for part in split_sound(pitch.samples))
        assert pitch.reference == ("higher" if second > first else "lower")
        first, second = (np.square(half).mean() for half in np.array_split(loudness.samples, 2))
        assert loudness.reference == ("louder" if second > first else "softer")
        assert all(sound.answer.endswith(f"{sound.reference}.") for sound in (beeps, pitch, loudness))


@pytest.mark.parametrize("student", [STUDENT, None])
def test_every_sound_and_question_is_a_row_with_its_answer(build, source, student):
    """Prevents: a clip beside the question of another, one asked twice, or an answer that nobody gave."""
    words = [] if student is None else ["--model_name_or_path", student]
    folder, said, error = build(*words)
    assert error == ""
    data = load_dataset_folder(str(folder))
    counts = json.loads((folder / "manifest.json").read_text())["counts"]["questions"]
    assert "repeated" in said
    assert (counts["read"], counts["repeated"]) == (18, 2)
    assert sum(map(len, data.values())) == counts["kept"] == 16 - counts.get("answer_cut_off", 0)
    assert len(data["train"]) > len(data["test"])
    for row in data["train"]:
        samples = decode_speech(row["audio"], row["id"])
        assert len(samples) == pytest.approx(row["audio_seconds"] * SPEECH_RATE_HZ)
        assert row["channels"] == ["a2t"]
        assert row["source"].startswith(f"{source.name}/")
        assert bool(row["teacher_response"]) == bool(row["teacher"]) == (student is not None)
    assert (folder / "README.md").read_text().count(source.name) >= 2
    _, again, error = build(*words)
    assert (error, "answer/s" in again) == ("", False)


def write_source(folder: Path, splits: dict[str, list[tuple[str, str | None, np.ndarray]]]) -> Path:
    """Write questions as (question, answer, samples)."""
    folder.mkdir()
    for split, rows in splits.items():
        with AtomicParquetWriter(folder / f"{split}.parquet", COLUMNS) as writer:
            for ask, answer, samples in rows:
                clip = {"bytes": encode_speech(samples), "path": None}
                writer.write({"ask": ask, "answer": answer, "kind": "x", "clip": clip})
            writer.close()
    return folder


def test_of_equal_questions_the_held_out_one_stays_or_the_answered_one(build, tmp_path):
    """Prevents: a question that is trained on and tested, and an answer that is dropped for a row without one."""
    one, two = (np.full(8000, level, np.float32) for level in (0.1, 0.2))
    rows = {"train": [("A?", None, one), ("A?", "yes", one), ("B?", "no", two)], "test": [("B?", "no", two)]}
    folder, _, error = build("--dataset_name", str(write_source(tmp_path / "source", rows)))
    assert error == ""
    data = load_dataset_folder(str(folder))
    assert [(row["question"], row["reference"]) for row in data["train"]] == [("A?", "yes")]
    assert data["test"]["question"] == ["B?"]
    counts = json.loads((folder / "manifest.json").read_text())["counts"]["questions"]
    assert counts == {"read": 4, "kept": 2, "repeated": 2}


def test_a_split_of_which_nothing_is_left_is_left_out(build, tmp_path):
    """Prevents: a data set that no library can load."""
    tones = [np.full(8000, level, np.float32) for level in (0.1, 0.2)]
    rows = {"train": [("A?", "yes", tones[0])], "test": [("A?", None, tones[1])]}
    folder, said, error = build("--dataset_name", str(write_source(tmp_path / "source", rows)))
    assert error == ""
    assert "no question of the split test is left" in said
    assert list(load_dataset_folder(str(folder))) == ["train"]
    assert "test" not in (folder / "README.md").read_text().split("# ")[0]


def test_another_data_set_in_the_folder_is_not_replaced(build):
    """Prevents: the loss of a data set by a rerun with other settings."""
    build()
    _, _, error = build("--max_items", "3")
    assert "holds another data set" in error
    folder, _, error = build("--max_items", "3", "--overwrite_output_dir", "true")
    assert error == ""
    assert len(load_dataset_folder(str(folder))["train"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--columns", "question=ask", "audio=clip"], "there are no answers"),
        (["--columns", "question=ask", "reference=answer"], "columns: name those of the question and of its sound"),
        (["--columns", "question=asked", "audio=clip", "reference=answer"], "no column 'asked'"),
        (["--columns", "question=ask", "audio=clip", "reference=answer", "choices=kind"], "choices is none of"),
        (["--test_split", "held_out"], "has no split 'held_out'"),
    ],
)
def test_what_is_missing_is_named(build, words, message):
    """Prevents: an error of a library about a column or a split that is not there."""
    folder, _, error = build(*words)
    assert message in error
    assert not folder.exists()


def test_a_run_with_sounds_reports_them_before_and_after(build, tmp_path, monkeypatch, capsys):
    """Prevents: a student that forgets sounds while its report speaks of questions alone."""
    folder, _, error = build("--model_name_or_path", STUDENT)
    assert error == ""
    words = ["--config", "recipes/configs/tiny_sounds.yaml", "--model_name_or_path", STUDENT]
    words += ["--teacher_model_name_or_path", TEACHER, "--sound_dataset_name", str(folder), "--sound_share", "0.03"]
    words += ["--questions", str(write_every(20, tmp_path / "questions.jsonl")), "--cache_dir", str(tmp_path / "pairs")]
    words += ["--max_steps", "2", "--logging_steps", "1", "--save_strategy", "no"]
    said, error = run_script("s2t_t2t.py", [*words, "--output_dir", str(tmp_path / "run")], monkeypatch, capsys)
    assert error == ""
    assert "questions about sounds, percent: " in said
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["sounds"].keys() == {"before", "after"}
    assert report["sounds"]["after"].keys() == report["sounds"]["before"].keys() >= {"all"}
    assert "a2t" in (tmp_path / "run" / "README.md").read_text()
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert any("a2t/kl" in entry for entry in state["log_history"])
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| questions about sounds | {folder.name} |" in card
    words = ["--run_config", str(tmp_path / "run" / "resolved.yaml"), "--model_name_or_path", STUDENT]
    words += ["--evaluator", "exact_answer", "--max_items", "3", "--output_dir", str(tmp_path / "eval")]
    said, error = run_script("eval_speech.py", words, monkeypatch, capsys)
    assert error == ""
    scores = json.loads((tmp_path / "eval" / "report.json").read_text())["scores"]
    assert {line["modality"] for line in scores} == {"text", "speech", "audio"}


def test_a_dry_run_shows_sounds_and_a_wrong_name_ends_it(build, tmp_path, monkeypatch, capsys):
    """Prevents: a mistake that is found after answers and speech of hours."""
    folder, _, error = build("--model_name_or_path", STUDENT)
    assert error == ""
    words = ["--config", "recipes/configs/tiny_sounds.yaml", "--model_name_or_path", STUDENT, "--dry_run", "true"]
    said, error = run_script("s2t_t2t.py", [*words, "--sound_dataset_name", str(folder)], monkeypatch, capsys)
    assert error == ""
    assert "a2t: prompts of" in said
    _, error = run_script("s2t_t2t.py", [*words, "--sound_dataset_name", "outputs/a/b"], monkeypatch, capsys)
    assert "outputs/a/b" in error
