"""Questions in, pairs out: resumable, named by content, whole or not there."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
import soundfile
from datasets import Audio
from transformers import AutoModelForCausalLM

import data_builders.answers.local_model
import data_builders.pipeline.stages
from data_builders.arguments import BuildArguments, DataArguments
from data_builders.pairs import build_pairs, load_pairs
from data_builders.questions.read import read_questions
from data_builders.questions.select import select_questions
from data_builders.schema import FEATURES, SPEECH_RATE_HZ
from data_builders.speech.tts.espeak import EspeakEngine
from data_builders.storage.call_cache import CallCache, content_key
from data_builders.storage.dataset_folder import load_dataset_folder

LAB = Path(__file__).parents[3] / "recipes" / "tiny_lab"
TEACHER = str(LAB / "teacher")


def test_a_row_is_one_question_asked_twice(pairs):
    """Columns, types and rates that training relies on."""
    assert pairs["train"].features == FEATURES == pairs["test"].features
    for row in pairs["train"]:
        clip = soundfile.info(io.BytesIO(row["speech"]["bytes"]))
        assert (clip.samplerate, clip.channels, clip.format) == (SPEECH_RATE_HZ, 1, "FLAC")
        assert row["speech_seconds"] == pytest.approx(clip.duration)
        assert row["teacher_response"].endswith(".")
        assert row["channels"] == ["t2t", "s2t"]
    everything = [*pairs["train"], *pairs["test"]]
    assert len({row["id"] for row in everything}) == len(everything)


def test_test_questions_and_voices_are_never_trained_on(pairs):
    """A gap measured on trained questions or voices is a measure of memory."""
    for column in ("question", "voice"):
        assert not set(pairs["train"][column]) & set(pairs["test"][column])


def test_a_second_build_does_no_work(data_arguments, pairs, monkeypatch):
    """Hours of synthesis and generation are paid for once, even when the finished folder was deleted."""

    def refuse(*_, **__):
        raise AssertionError("this was already done")

    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", refuse)
    monkeypatch.setattr(
        data_builders.answers.local_model.AutoModelForCausalLM, "from_pretrained", refuse
    )
    folder = build_pairs(data_arguments, TEACHER)
    shutil.rmtree(folder)
    assert build_pairs(data_arguments, TEACHER) == folder
    assert load_dataset_folder(str(folder))["train"][:] == pairs["train"][:]


def test_another_voice_redoes_speech_alone(data_arguments, pairs, monkeypatch):
    """Answers cost more than speech and do not depend on it."""

    def refuse(*_, **__):
        raise AssertionError("answers do not depend on voices")

    monkeypatch.setattr(
        data_builders.answers.local_model.AutoModelForCausalLM, "from_pretrained", refuse
    )
    other = dataclasses.replace(data_arguments, test_voices=["en-gb-x-rp+m7"])
    folder = build_pairs(other, TEACHER)
    assert folder != build_pairs(data_arguments, TEACHER)
    assert set(load_dataset_folder(str(folder))["test"]["voice"]) == {"en-gb-x-rp+m7"}


def test_a_build_killed_between_clips_keeps_what_was_spoken(
    data_arguments, pairs, tmp_path, monkeypatch
):
    """A power cut at 39,000 of 40,000 clips."""
    arguments = dataclasses.replace(data_arguments, cache_dir=str(tmp_path))
    spoken = []

    class Dying:
        in_flight = 1

        def __init__(self, dies_at):
            self.engine, self.dies_at = EspeakEngine(), dies_at

        def synthesize(self, text, voice):
            if len(spoken) == self.dies_at:
                raise KeyboardInterrupt
            spoken.append(text)
            return self.engine.synthesize(text, voice)

        def close(self):
            self.engine.close()

    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: Dying(5))
    with pytest.raises(KeyboardInterrupt):
        build_pairs(arguments, TEACHER)
    assert not list(tmp_path.rglob("*.parquet.*"))
    assert not list(tmp_path.rglob("manifest.json"))
    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: Dying(-1))
    folder = build_pairs(arguments, TEACHER)
    assert len(spoken) == len(pairs["train"]) + len(pairs["test"])
    assert load_dataset_folder(str(folder))["test"]["speech"] == pairs["test"]["speech"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "What is one plus one?"}], "no column 'question'"),
        ([{"question": "Hello?"}, {"question": "  "}], "row 1: its question is empty"),
        ([{"question": "Hello?", "channels": ["speech"]}], "row 0: unknown channel 'speech'"),
        ([{"question": "Hello?"}, {"question": "Hello?"}], "row 1: the same question as row 0"),
    ],
)
def test_a_bad_question_is_named_before_anything_starts(tmp_path, rows, message):
    """Synthesis of 40,000 rows, then an error about the first."""
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        select_questions(
            BuildArguments(questions=str(file), cache_dir=str(tmp_path), filter_unspeakable=False)
        )


def test_numbers_and_words_of_a_csv_file_become_what_the_columns_hold(tmp_path):
    """An answer 4 read as an integer stopped the build after hours of synthesis; channels were read by the letter."""
    file = tmp_path / "questions.csv"
    file.write_text(
        "question,reference,channels\nWhat is two plus two?,4,s2t\nAnd one plus one?,2,t2t s2t\n"
    )
    prompts = list(read_questions(str(file)))
    assert [prompt["reference"] for prompt in prompts] == ["4", "2"]
    assert [prompt["channels"] for prompt in prompts] == [["s2t"], ["t2t", "s2t"]]


def test_a_missing_file_is_named(tmp_path):
    """Not a lookup of "questions.jsonl" on the Hub."""
    with pytest.raises(ValueError, match=r"there is no file .*questions\.jsonl"):
        list(read_questions(str(tmp_path / "questions.jsonl")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "set one of `dataset_name`"),
        ({"questions": "a", "dataset_name": "b"}, "set one of `dataset_name`"),
        ({"questions": "a", "recordings_per_question": 2}, "recordings_per_question is 2"),
        ({"questions": "a", "test_voices": ["en-us"]}, "in both train_voices and test_voices"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    """Two sources of rows, or a voice on both sides."""
    with pytest.raises(ValueError, match=message):
        DataArguments(**arguments)


def test_a_finished_data_set_is_read_from_its_folder(data_arguments, pairs):
    """What was built once, or downloaded, needs no teacher."""
    folder = build_pairs(data_arguments, TEACHER)
    again = load_pairs(DataArguments(dataset_name=str(folder)), None)
    assert again["train"][0] == pairs["train"][0]


def test_an_audio_column_is_never_decoded(pairs, tmp_path):
    """Data sets of others decode by default, which needs torchcodec and hands out no bytes."""
    decoding = pairs.cast_column("speech", Audio(sampling_rate=SPEECH_RATE_HZ))
    decoding.save_to_disk(str(tmp_path / "theirs"))
    again = load_pairs(DataArguments(dataset_name=str(tmp_path / "theirs")), None)
    assert again["train"][0]["speech"]["bytes"] == pairs["train"][0]["speech"]["bytes"]


def test_a_data_set_without_a_train_split_is_refused(pairs, tmp_path):
    """A plain `Dataset` saved to disk has no splits to look in."""
    pairs["train"].save_to_disk(str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="has no split 'train'"):
        load_pairs(DataArguments(dataset_name=str(tmp_path / "plain")), None)


def test_a_published_models_own_settings_do_not_shape_its_answers(data_arguments, pairs, tmp_path):
    """Qwen2.5-Instruct ships a repetition penalty, which `generate` mixes into what one asks for."""
    other = tmp_path / "teacher"
    shutil.copytree(TEACHER, other)
    settings = other / "generation_config.json"
    settings.write_text(json.dumps({"repetition_penalty": 9.0, "do_sample": True}))
    arguments = dataclasses.replace(data_arguments, cache_dir=str(tmp_path / "data"))
    again = load_pairs(arguments, str(other))
    assert again["test"]["teacher_response"] == pairs["test"]["teacher_response"]


def test_the_journal_survives_and_tells_what_is_missing(tmp_path):
    """Keys are content: another setting misses, the same setting hits, in another process too."""
    journal = CallCache(tmp_path / "journal.sqlite")
    one, two = content_key("speech", "en-us", "Hello?"), content_key("speech", "en-gb", "Hello?")
    journal.put(one, b"clip")
    journal.close()
    again = CallCache(tmp_path / "journal.sqlite")
    assert again.missing([one, two, two]) == [two]
    assert again.get(one) == b"clip"
    assert again.get(two) is None


def test_the_teacher_is_loaded_as_it_fits_and_only_to_answer(data_arguments, tmp_path):
    """The data set of a 12 GB card's recipe is answered by a 15 GB teacher, or by nobody."""
    loaded = []

    def load():
        loaded.append(1)
        return AutoModelForCausalLM.from_pretrained(TEACHER)

    arguments = dataclasses.replace(data_arguments, cache_dir=str(tmp_path))
    built = load_pairs(arguments, TEACHER, load_teacher=load)
    assert loaded == [1]
    again = load_pairs(
        dataclasses.replace(arguments, test_voices=["en-us+f4"]), TEACHER, load_teacher=load
    )
    assert loaded == [1]
    assert again["train"]["teacher_response"] == built["train"]["teacher_response"]
    in_4bit = load_pairs(arguments, TEACHER, load_teacher=load, teacher_precision="in 4-bit")
    assert loaded == [1, 1]  # the answers of a quantized teacher are not those of the whole one
    assert "in 4-bit" in in_4bit["train"]["teacher"][0]
    assert "in 4-bit" not in built["train"]["teacher"][0]
