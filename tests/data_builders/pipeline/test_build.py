"""Tests of a build in this process: rows, caches, folders and errors."""

import dataclasses
import io
import json
import shutil

import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio

import data_builders.answers.local_model
import data_builders.pipeline.stages
import data_builders.pretrained
from data_builders.arguments import DataArguments, QuestionArguments
from data_builders.causal_lm import TeacherSettings
from data_builders.pairs import build_pairs, load_pairs
from data_builders.questions.read import read_questions
from data_builders.questions.select import select_questions
from data_builders.schema import FEATURES, SPEECH_RATE_HZ, make_row_id
from data_builders.speech.tts.espeak import EspeakEngine
from data_builders.storage.call_cache import CallCache, content_key
from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.lab import TEACHER


def test_a_row_has_the_question_as_text_and_as_speech(pairs):
    """Prevents: columns, types or sample rates that training does not expect."""
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
    """Prevents: a modality gap measured on trained questions or voices, which would measure memory."""
    for column in ("question", "voice"):
        assert not set(pairs["train"][column]) & set(pairs["test"][column])


def test_a_second_build_does_no_work(data_arguments, pairs, monkeypatch):
    """Prevents: paying twice for synthesis and generation, also after the finished folder was deleted."""

    def refuse(*_, **__):
        raise AssertionError("this was already done")

    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", refuse)
    monkeypatch.setattr(data_builders.pretrained.AutoModelForCausalLM, "from_pretrained", refuse)
    folder = build_pairs(data_arguments, TeacherSettings(TEACHER))
    shutil.rmtree(folder)
    assert build_pairs(data_arguments, TeacherSettings(TEACHER)) == folder
    assert load_dataset_folder(str(folder))["train"][:] == pairs["train"][:]


def test_another_voice_redoes_speech_alone(data_arguments, pairs, monkeypatch):
    """Prevents: generating all answers again when only the speech settings change."""

    def refuse(*_, **__):
        raise AssertionError("answers do not depend on voices")

    monkeypatch.setattr(data_builders.pretrained.AutoModelForCausalLM, "from_pretrained", refuse)
    other = dataclasses.replace(data_arguments, test_voices=["en-gb-x-rp+m7"])
    folder = build_pairs(other, TeacherSettings(TEACHER))
    assert folder != build_pairs(data_arguments, TeacherSettings(TEACHER))
    assert set(load_dataset_folder(str(folder))["test"]["voice"]) == {"en-gb-x-rp+m7"}


def test_a_build_killed_between_clips_keeps_the_finished_clips(data_arguments, pairs, tmp_path, monkeypatch):
    """Prevents: losing 39,000 clips of 40,000 to a power cut."""
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
        build_pairs(arguments, TeacherSettings(TEACHER))
    assert not list(tmp_path.rglob("*.parquet.*"))
    assert not list(tmp_path.rglob("manifest.json"))
    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: Dying(-1))
    folder = build_pairs(arguments, TeacherSettings(TEACHER))
    assert len(spoken) == len(pairs["train"]) + len(pairs["test"])
    assert load_dataset_folder(str(folder))["test"]["speech"] == pairs["test"]["speech"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "What is one plus one?"}], "no column 'question'"),
        ([{"question": "Hello?", "channels": ["speech"]}], "row 0: unknown channel 'speech'"),
    ],
)
def test_a_bad_question_is_named_before_anything_starts(tmp_path, rows, message):
    """Prevents: an error about the first row after 40,000 rows were synthesized."""
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        select_questions(QuestionArguments(questions=str(file), filter_unspeakable=False), (1, 1), "1MB", tmp_path)


def test_questions_that_cannot_be_used_are_set_aside_or_stop_the_build_all_at_once(tmp_path):
    """Prevents: five runs in a row that each stop at the next bad question, of a person's first sixty."""
    texts = ["Hello?", " ", "Hello?", "\ufeffWho?\u200b", ""]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": text, "id": f"mine-{n}"}) + "\n" for n, text in enumerate(texts)))
    arguments = QuestionArguments(questions=str(file), filter_unspeakable=False)
    selection = select_questions(arguments, (1, 1), "1MB", tmp_path)
    assert selection.counts == {"read": 5, "kept": 2, "empty": 2, "duplicate": 1}
    assert [(row["question"], row["source_id"]) for row in selection.read("train-00000")] == [
        ("Hello?", "mine-0"), ("Who?", "mine-3"),
    ]  # fmt: skip
    dropped = pq.read_table(selection.folder / "dropped.parquet").to_pylist()
    assert [(row["row"], row["source_id"], row["code"], row["detail"]) for row in dropped] == [
        (1, "mine-1", "empty", ""), (2, "mine-2", "duplicate", "of row 0"), (4, "mine-4", "empty", ""),
    ]  # fmt: skip
    strict = dataclasses.replace(arguments, max_rejected_share=0.5)
    assert make_row_id("x", "Hello?", "Be brief.") != make_row_id("x", "Hello?")  # two questions, not one twice
    with pytest.raises(ValueError, match=r"3 of 5 questions cannot be used") as caught:
        select_questions(strict, (1, 1), "1MB", tmp_path)
    assert all(f"row {number}: " in str(caught.value) for number in (1, 2, 4))


def test_csv_values_are_converted_to_the_column_types(tmp_path):
    """Prevents: an answer "4" read as an integer, which stopped a build after hours of synthesis; channels split into
    letters.
    """
    file = tmp_path / "questions.csv"
    file.write_text("question,reference,channels\nWhat is two plus two?,4,s2t\nAnd one plus one?,2,t2t s2t\n")
    prompts = list(read_questions(str(file)))
    assert [prompt["reference"] for prompt in prompts] == ["4", "2"]
    assert [prompt["channels"] for prompt in prompts] == [["s2t"], ["t2t", "s2t"]]


def test_a_missing_file_is_named(tmp_path):
    """Prevents: a lookup of "questions.jsonl" on the Hub when the local file is missing."""
    with pytest.raises(ValueError, match=r"there is no file .*questions\.jsonl"):
        list(read_questions(str(tmp_path / "questions.jsonl")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "set one of `dataset_name`"),
        ({"questions": "a", "dataset_name": "b"}, "set one of `dataset_name`"),
        ({"questions": "a", "recordings_per_question": 2}, "recordings_per_question is 2"),
        ({"questions": "a", "speech_engine": "server"}, "made by recipes/build_data"),
        ({"questions": "a", "test_voices": ["en-us"]}, "in both train_voices and test_voices"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    """Prevents: two sources of rows, or one voice in both the train and the test split."""
    with pytest.raises(ValueError, match=message):
        DataArguments(**arguments)


def test_a_finished_data_set_is_read_from_its_folder(data_arguments, pairs):
    """Prevents: loading a teacher for a data set that is already built or downloaded."""
    folder = build_pairs(data_arguments, TeacherSettings(TEACHER))
    again = load_pairs(DataArguments(dataset_name=str(folder)), None)
    assert again["train"][0] == pairs["train"][0]


def test_an_audio_column_is_never_decoded(pairs, tmp_path):
    """Prevents: a dependency on torchcodec: `datasets` decodes audio by default and then returns no bytes."""
    decoding = pairs.cast_column("speech", Audio(sampling_rate=SPEECH_RATE_HZ))
    decoding.save_to_disk(str(tmp_path / "theirs"))
    again = load_pairs(DataArguments(dataset_name=str(tmp_path / "theirs")), None)
    assert again["train"][0]["speech"]["bytes"] == pairs["train"][0]["speech"]["bytes"]


def test_a_data_set_without_a_train_split_is_refused(pairs, tmp_path):
    """Prevents: a late KeyError for a plain `Dataset` saved to disk, which has no splits."""
    pairs["train"].save_to_disk(str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="has no split 'train'"):
        load_pairs(DataArguments(dataset_name=str(tmp_path / "plain")), None)


def test_the_generation_config_of_a_model_does_not_change_its_answers(data_arguments, pairs, tmp_path):
    """Prevents: the repetition penalty of Qwen2.5-Instruct, which `generate` merges into the requested settings."""
    other = tmp_path / "teacher"
    shutil.copytree(TEACHER, other)
    settings = other / "generation_config.json"
    settings.write_text(json.dumps({"repetition_penalty": 9.0, "do_sample": True}))
    arguments = dataclasses.replace(data_arguments, cache_dir=str(tmp_path / "data"))
    again = load_pairs(arguments, TeacherSettings(str(other)))
    assert again["test"]["teacher_response"] == pairs["test"]["teacher_response"]


def test_cache_entries_survive_a_process_and_depend_on_every_setting(tmp_path):
    """Prevents: a hit for other settings, or a miss for equal ones in another process."""
    cache = CallCache(tmp_path / "cache.sqlite")
    one, two = content_key("speech", "en-us", "Hello?"), content_key("speech", "en-gb", "Hello?")
    cache.put(one, b"clip")
    cache.close()
    again = CallCache(tmp_path / "cache.sqlite")
    assert again.missing([one, two, two]) == [two]
    assert again.get(one) == b"clip"
    assert again.get(two) is None


def test_the_teacher_is_loaded_only_to_answer(data_arguments, tmp_path, monkeypatch):
    """Prevents: a 15 GB teacher loaded for answers that are cached; answers of one precision taken for another's."""
    loaded = []
    load = data_builders.answers.local_model.load_causal_lm

    def count(settings):
        loaded.append(settings.load_in_4bit)
        return load(settings)

    monkeypatch.setattr(data_builders.answers.local_model, "load_causal_lm", count)
    arguments = dataclasses.replace(data_arguments, cache_dir=str(tmp_path))
    built = load_pairs(arguments, TeacherSettings(TEACHER))
    assert loaded == [False]
    again = load_pairs(dataclasses.replace(arguments, test_voices=["en-us+f4"]), TeacherSettings(TEACHER))
    assert loaded == [False]
    assert again["train"]["teacher_response"] == built["train"]["teacher_response"]
    in_4bit = load_pairs(arguments, TeacherSettings(TEACHER, dtype="float32", load_in_4bit=True))
    assert loaded == [False, True]
    assert "in 4-bit" in in_4bit["train"]["teacher"][0]
    assert "in 4-bit" not in built["train"]["teacher"][0]
