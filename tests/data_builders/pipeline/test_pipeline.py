"""Tests of the pipeline as a command, by several processes and with kills."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset

import data_builders.pipeline.stages
from data_builders.arguments import DataArguments
from data_builders.pairs import load_pairs
from data_builders.pipeline.build import build_dataset
from data_builders.questions.text_normalization import normalize_for_tts
from data_builders.speech.tts.espeak import EspeakEngine
from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.lab import ROOT, TEACHER, write_questions
from tests.support.open_orca import make_rows
from tests.support.processes import run
from tests.support.run_script import run_script
from tests.support.settings import make_settings, read_parquet

CONFIG = ROOT / "recipes" / "configs" / "data" / "tiny.yaml"


def command(tmp_path, questions_file, **changes):
    """Return the command line of a small build."""
    settings = {
        "questions": questions_file,
        "cache_dir": tmp_path / "data",
        "output_dir": tmp_path / "made",
        "teacher_model_name_or_path": TEACHER,
        "answer_max_new_tokens": 24,
        "near_duplicates": 1.0,
        "max_shard_size": "200KB",
        "train_voices": ["en-us", "en-gb-x-rp+f2/160/60"],
        "test_voices": ["en-us+m3"],
        "workers": 1,
        **changes,
    }
    words = [sys.executable, str(ROOT / "recipes" / "build_data.py"), "--config", str(CONFIG)]
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def build(*arguments, **changes):
    return run(command(*arguments, **changes)).stdout


@pytest.fixture
def build_here(monkeypatch, capsys):
    """Return `build` in this process, which has imported the libraries already."""

    def run_here(*arguments, **changes):
        output, error = run_script("build_data.py", command(*arguments, **changes)[2:], monkeypatch, capsys)
        assert not error
        return output

    return run_here


def digest(folder):
    """Return hashes of every file of a finished data set, by name."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def counts(folder):
    return json.loads((folder / "manifest.json").read_text())["counts"]


def cache_stamps(tmp_path):
    return {file: file.stat().st_mtime_ns for file in (tmp_path / "data").rglob("*.sqlite")}


@pytest.fixture(scope="module")
def made(tmp_path_factory, questions_file):
    """Run an uninterrupted build by one process; returns its folder and its output."""
    tmp_path = tmp_path_factory.mktemp("alone")
    return tmp_path, build(tmp_path, questions_file)


def test_questions_become_a_verified_data_set(made, questions_file):
    """Prevents: a build without card, pictures or manifest, or with half-written files."""
    tmp_path, output = made
    folder = tmp_path / "made"
    assert "rows" in output
    assert "questions" in output
    manifest = json.loads((folder / "manifest.json").read_text())
    rows, rejected = read_parquet(folder / "data"), read_parquet(folder / "rejected")
    assert manifest["rows"]["train"] + manifest["rows"]["test"] == len(rows)
    assert len(rows) + len(rejected) == counts(folder)["questions"]["kept"]
    assert all(row["wer"] <= 0.5 and row["transcript"] and row["speech"]["bytes"] for row in rows)
    assert {row["rejected_stage"] for row in rejected} == {"verification"}
    assert {row["speech_engine"] for row in rows} == {"espeak"}
    card = (folder / "README.md").read_text()
    assert card.split("---")[2].lstrip().startswith("# made\n")
    assert str(tmp_path) not in card
    assert str(questions_file.parent) not in card
    assert "pocketsphinx" in card
    assert f"| train | {manifest['rows']['train']} |" in card
    assert (folder / "images" / "wer.png").is_file()
    assert not list(tmp_path.rglob("*.partial"))


def test_others_load_it_by_its_folder(made, tmp_path):
    """Prevents: a data set that `datasets` cannot read, or that gives a file to the wrong split."""
    loaded = load_dataset(str(made[0] / "made"), cache_dir=str(tmp_path))
    ours = load_dataset_folder(str(made[0] / "made"))
    assert {split: len(rows) for split, rows in loaded.items()} == {split: len(rows) for split, rows in ours.items()}
    assert type(loaded["train"].features["speech"]).__name__ == "Audio"
    assert ours["train"][0]["speech"]["bytes"].startswith(b"fLaC")


def test_a_second_run_does_nothing_and_another_voice_redoes_speech_alone(made, questions_file, build_here):
    """Prevents: hours of generation and synthesis that are paid for twice."""
    tmp_path, _ = made
    before, stamps = digest(tmp_path / "made"), cache_stamps(tmp_path)
    assert "%|" not in build_here(tmp_path, questions_file)
    assert digest(tmp_path / "made") == before
    assert cache_stamps(tmp_path) == stamps
    build_here(tmp_path, questions_file, output_dir=tmp_path / "other", test_voices=["en-029"])
    after = cache_stamps(tmp_path)
    assert {file.parent.name for file in stamps if after[file] != stamps[file]} == {"speech", "verification"}


def test_two_workers_make_the_same_data_set(made, questions_file, tmp_path):
    """Prevents: a voice, a batch or an order that depends on the worker."""
    build(tmp_path, questions_file, workers=2)
    assert digest(tmp_path / "made") == digest(made[0] / "made")


@pytest.mark.slow
def test_two_machines_with_one_folder_make_the_same_data_set(made, questions_file, tmp_path):
    """Prevents: shards that two machines both make, or neither."""
    machines = [subprocess.Popen(command(tmp_path, questions_file, shard=f"{i}/2"), cwd=ROOT) for i in (0, 1)]
    assert [machine.wait(300) for machine in machines] == [0, 0]
    build(tmp_path, questions_file)
    assert digest(tmp_path / "made") == digest(made[0] / "made")


def start(tmp_path, questions_file):
    return subprocess.Popen(
        command(tmp_path, questions_file),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(process, tmp_path):
    """Kill a build and its children by SIGKILL, then read every finished file."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for file in (tmp_path / "data" / "shards").rglob("*.json"):
        json.loads(file.read_text())
    for file in (tmp_path / "data" / "shards").rglob("*.parquet"):
        pq.read_table(file)


def count_clips(tmp_path):
    """Count the clips in the caches of a running build."""
    clips = 0
    for file in (tmp_path / "data" / "calls" / "speech").glob("*.sqlite"):
        try:
            with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
                clips += database.execute("SELECT count(*) FROM finished").fetchone()[0]
        except sqlite3.OperationalError:
            continue
    return clips


def test_a_build_killed_between_clips_ends_in_the_same_bytes(made, questions_file, tmp_path, build_here):
    """Prevents: a power cut that costs finished work or changes the data set. tests/faults has twenty kills."""
    process = start(tmp_path, questions_file)
    while count_clips(tmp_path) < 5 and process.poll() is None:
        time.sleep(0.005)
    kill(process, tmp_path)
    assert not (tmp_path / "made").exists()
    build_here(tmp_path, questions_file)
    assert digest(tmp_path / "made") == digest(made[0] / "made")


def small(tmp_path, questions_file, **changes):
    """Return settings of a build in this process."""
    return make_settings(
        **{
            "questions": str(questions_file),
            "cache_dir": str(tmp_path / "data"),
            "output_dir": str(tmp_path / "made"),
            "near_duplicates": 1.0,
            "max_shard_size": "400KB",
            **changes,
        }
    )


class SwappingEngine(EspeakEngine):
    """Engine that speaks another question's text for some questions."""

    swapped = {}

    def synthesize(self, text, voice):
        return super().synthesize(self.swapped.get(text, text), voice)


def test_swapped_clips_are_found(tmp_path, monkeypatch):
    """Prevents: wrong answers to right questions, from a queue that lost its order."""
    questions = [row["question"] for row, label in make_rows(300) if label == "yes"][:40]
    file = write_questions(tmp_path / "questions.jsonl", questions)
    wrong = random.Random(0).sample(questions, 2)
    others = dict(zip(wrong, [*wrong[1:], wrong[0]], strict=True))
    SwappingEngine.swapped = {normalize_for_tts(a): normalize_for_tts(b) for a, b in others.items()}
    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: SwappingEngine())
    kept = {row["question"] for row in read_parquet(build_dataset(small(tmp_path, file)) / "data")}
    assert not kept & set(wrong)
    assert len(kept) >= 0.85 * (len(questions) - len(wrong))


def test_an_answer_cut_off_is_never_trained_on(questions_file, tmp_path):
    """Prevents: half answers, which teach to stop in the middle."""
    settings = small(
        tmp_path,
        questions_file,
        teacher_model_name_or_path=TEACHER,
        answer_max_new_tokens=6,
        recognizer="none",
    )
    folder = build_dataset(settings)
    assert counts(folder)["rows"]["cut_off"] > 5
    rejected = read_parquet(folder / "rejected")
    assert {(row["rejected_stage"], row["rejected_detail"]) for row in rejected} == {("answers", "length")}
    assert all(row["teacher_response"] for row in rejected)


class ShortOfBreath(EspeakEngine):
    """Engine that refuses texts in one voice."""

    def synthesize(self, text, voice):
        if voice == "en-029" and len(text) > 1:
            raise ValueError("out of breath")
        return super().synthesize(text, voice)


def test_an_unknown_voice_stops_the_build_before_any_answer(questions_file, tmp_path):
    """Prevents: "no row was kept" after a night of answers, for a voice that was misspelled."""
    settings = small(tmp_path, questions_file, train_voices=["en-us", "xx-nope"])
    with pytest.raises(ValueError, match=r"no voice 'xx-nope'.*English voices are en.*en-us.*variants.*f3"):
        build_dataset(settings)
    assert not (tmp_path / "data" / "calls").exists()


def test_a_data_set_of_other_settings_is_replaced_on_demand_alone(questions_file, tmp_path):
    """Prevents: 1,299 rows that become 852 because of a changed threshold and the same folder."""
    folder = build_dataset(small(tmp_path, questions_file, recognizer="none"))
    other = small(tmp_path, questions_file, recognizer="none", max_rows=5)
    with pytest.raises(ValueError, match=r"holds another data set \(.* train.*--overwrite_output_dir true"):
        build_dataset(other)
    build_dataset(small(tmp_path, questions_file, recognizer="none", max_rows=5, overwrite_output_dir=True))
    assert sum(len(split) for split in load_dataset_folder(str(folder)).values()) == 5


def test_a_folder_that_cannot_be_written_is_found_before_any_work(questions_file, tmp_path):
    """Prevents: a night of answers for a data set that cannot be saved."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        build_dataset(small(tmp_path, questions_file, output_dir=str(tmp_path / "file" / "set")))
    assert not (tmp_path / "data").exists()


def test_a_refused_text_is_rejected_until_it_is_retried(questions_file, tmp_path, monkeypatch):
    """Prevents: one text that stops a night's work, or that costs something after the engine was repaired."""
    voices = {"train_voices": ["en-us", "en-029"], "recognizer": "none"}
    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: ShortOfBreath())
    settings = small(tmp_path, questions_file, **voices)
    folder = build_dataset(settings)
    rejected = read_parquet(folder / "rejected")
    assert rejected
    assert {(row["voice"], row["rejected_code"]) for row in rejected} == {("en-029", "not_spoken")}
    assert all("out of breath" in row["rejected_detail"] for row in rejected)
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert build_dataset(settings) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    build_dataset(small(tmp_path, questions_file, **voices, retry_failed=True))
    assert (folder / "manifest.json").stat().st_mtime_ns != stamp


class FullGpu(EspeakEngine):
    """Engine that runs out of GPU memory at one text."""

    def synthesize(self, text, voice):
        if "Norway" in text:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().synthesize(text, voice)


def test_a_full_gpu_does_not_make_a_row_unspeakable(tmp_path, monkeypatch):
    """Prevents: rows rejected for good because another process held the GPU's memory for a minute."""
    asked = ["What is the capital of Norway?", "What is the capital of France?"]
    file = write_questions(tmp_path / "questions.jsonl", asked)
    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: FullGpu())
    settings = small(tmp_path, file, recognizer="none")
    with pytest.raises(ValueError, match=r"1 calls failed.*run this again(.|\n)*Norway(.|\n)*out of memory"):
        build_dataset(settings)
    monkeypatch.undo()
    rows = load_dataset_folder(str(build_dataset(settings)))["train"]
    assert sorted(rows["question"]) == sorted(asked)


def test_rows_that_are_never_spoken_need_no_recognizer(questions_file, tmp_path):
    """Prevents: a shard of t2t rows alone that fails for want of clips; a third of the paper's rows are such."""
    rows = [json.loads(line) for line in questions_file.read_text().splitlines()]
    train = [row for row in rows if row["split"] == "train"]
    settings = small(
        tmp_path,
        write_questions(tmp_path / "train.jsonl", train),
        channel_shares=["t2t=1"],
        recognizer="whisper",
        recognizer_model="none",
    )
    rows = load_dataset_folder(str(build_dataset(settings)))["train"]
    assert len(rows) == len(train)
    assert set(rows["voice"]) == {None}
    assert all(channels == ["t2t"] for channels in rows["channels"])


def test_a_shard_whose_clips_were_all_rejected_needs_no_recognizer(tmp_path, monkeypatch):
    """Prevents: a recognizer that is loaded for no clip, and fails at it in every run."""
    asked = [{"question": "Who wrote it?"}, {"question": "What comes after Wednesday?", "channels": ["t2t"]}]
    file = write_questions(tmp_path / "questions.jsonl", asked)
    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: ShortOfBreath())
    unable = {"recognizer": "whisper", "recognizer_model": "none", "train_voices": ["en-029"]}
    folder = build_dataset(small(tmp_path, file, **unable))
    assert [row["rejected_code"] for row in read_parquet(folder / "rejected")] == ["not_spoken"]
    assert load_dataset_folder(str(folder))["train"]["question"] == ["What comes after Wednesday?"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_engine": "oracle"}, "answer_engine: unknown 'oracle'"),
        ({"speech_engine": "festival"}, "speech_engine: unknown 'festival'"),
        ({"recognizer": "ears"}, "recognizer: unknown 'ears'"),
        ({"augmentations": ["rain"]}, "augmentations: unknown 'rain'"),
        ({"language": "de", "recognizer": "pocketsphinx"}, "recognizer pocketsphinx knows English alone"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_made(questions_file, tmp_path, changes, message):
    """Prevents: a typing error that is found after a night of answers."""
    with pytest.raises(ValueError, match=message):
        build_dataset(small(tmp_path, questions_file, **changes))
    assert not (tmp_path / "data").exists()


def test_augmented_speech_is_another_column_of_the_same_length(questions_file, tmp_path):
    """Prevents: clean and noisy rows that cannot be compared, or a run that trains on the wrong one."""
    few = [json.loads(line) for line in questions_file.read_text().splitlines()[::3]]
    questions_file = write_questions(tmp_path / "questions.jsonl", few)
    effects = {"augmentations": ["room", "noise", "phone"], "noise_snr_db": [-10.0, -5.0]}
    folder = build_dataset(small(tmp_path, questions_file, **effects))
    clean, noisy = (
        load_pairs(DataArguments(dataset_name=str(folder), speech_column=column), None)["train"]
        for column in ("speech", "noisy_speech")
    )
    plain = load_dataset_folder(str(folder))["train"]
    assert clean["speech"][0] == plain["speech"][0]
    assert noisy["speech"][0] == plain["noisy_speech"][0] != plain["speech"][0]
    assert np.mean(plain["noisy_wer"]) > np.mean(plain["wer"])
    assert set(plain["augmentation"]) == {"room, noise at -10 to -5 dB, phone"}
    again = build_dataset(small(tmp_path / "again", questions_file, **effects))
    assert digest(again) == digest(folder)


def test_another_folder_is_never_replaced(questions_file, tmp_path):
    """Prevents: `output_dir: ~` that deletes a home directory."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"no data set of build_data\.py"):
        build_dataset(small(tmp_path, questions_file))
    assert (tmp_path / "made" / "thesis.tex").read_text() == "years of work"


def test_a_damaged_shard_is_found_before_it_is_published(questions_file, tmp_path):
    """Prevents: a bad disk or a half-copied folder that ends on the Hub."""
    settings = small(tmp_path, questions_file, recognizer="none")
    folder = build_dataset(settings)
    shard = next((tmp_path / "data" / "shards").rglob("train-00000.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.unlink()  # a hard link of the finished data set's file
    shard.write_bytes(content)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"train-00000\.parquet is damaged"):
        build_dataset(settings)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's call is Linux's")
def test_a_build_killed_alone_takes_its_workers_with_it(questions_file, tmp_path):
    """Prevents: an idle process of 315 MB that waits for ever for a parent that was killed by kill -9."""
    process = subprocess.Popen(
        command(tmp_path, questions_file, workers=2), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def children(of):
        listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout.split("\n")[1:]
        pairs = [tuple(map(int, line.split())) for line in listed if line.strip()]
        direct = [pid for pid, parent in pairs if parent == of]
        return direct + [pid for child in direct for pid in children(child)]

    while not len(workers := children(process.pid)) >= 3 and process.poll() is None:
        time.sleep(0.05)
    time.sleep(3)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60  # those that are still importing end after it
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers if Path(f"/proc/{pid}").exists()]
    assert left == [], left
