"""The whole pipeline as processes: the same data set whoever makes it, however often it is killed."""

import hashlib
import json
import os
import random
import signal
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
from data_builders.answers.fingerprint import fingerprint_teacher
from data_builders.arguments import BuildArguments
from data_builders.clients.concurrent import ServerUnreachable, TemporaryFailure, map_concurrent
from data_builders.pairs import load_pairs
from data_builders.pipeline.build import build_dataset
from data_builders.questions.text_normalization import normalize_for_tts
from data_builders.speech.tts.espeak import EspeakEngine
from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.hub import HubServer
from tests.support.open_orca import make_rows

ROOT = Path(__file__).parents[3]
LAB = ROOT / "recipes" / "tiny_lab"


def words(tmp_path, questions_file, **changes):
    """The command line of a small build."""
    settings = {
        "questions": questions_file, "cache_dir": tmp_path / "data", "output_dir": tmp_path / "made",
        "teacher_model_name_or_path": LAB / "teacher", "answer_max_new_tokens": 24, "near_duplicates": 1.0,
        "max_shard_size": "200KB", "train_voices": ["en-us", "en-gb-x-rp+f2/160/60"], "test_voices": ["en-us+m3"],
        "workers": 1, **changes,
    }  # fmt: skip
    found = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{name}", *map(str, values)]
    return found


def command(*arguments, **changes):
    config = ROOT / "recipes" / "configs" / "data" / "tiny.yaml"
    script = [sys.executable, str(ROOT / "recipes" / "build_data.py"), "--config", str(config)]
    return [*script, *words(*arguments, **changes)]


def build(*arguments, **changes):
    done = subprocess.run(
        command(*arguments, **changes), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def digest(folder):
    """Of every file of a finished data set, by its name."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def counts(folder):
    return json.loads((folder / "manifest.json").read_text())["counts"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, questions_file):
    """A build by one process, never disturbed."""
    tmp_path = tmp_path_factory.mktemp("alone")
    said = build(tmp_path, questions_file)
    return tmp_path, said


def test_questions_become_a_checked_data_set(made, questions_file):
    """The main job, as a command: table, card, pictures, manifest, nothing half-written."""
    tmp_path, said = made
    folder = tmp_path / "made"
    assert "rows" in said
    assert "questions" in said
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = [
        row
        for file in (folder / "data").glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    rejected = [
        row for file in (folder / "rejected").glob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]  # fmt: skip
    assert manifest["rows"]["train"] + manifest["rows"]["test"] == len(rows)
    assert len(rows) + len(rejected) == counts(folder)["questions"]["kept"]
    assert all(row["wer"] <= 0.5 and row["heard"] and row["speech"]["bytes"] for row in rows)
    assert all(row["reason"] for row in rejected)
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
    """What the Hub will serve: parquet and a card that says which file is of which split."""
    loaded = load_dataset(str(made[0] / "made"), cache_dir=str(tmp_path))
    ours = load_dataset_folder(str(made[0] / "made"))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        split: len(rows) for split, rows in ours.items()
    }
    assert type(loaded["train"].features["speech"]).__name__ == "Audio"
    assert ours["train"][0]["speech"]["bytes"].startswith(b"fLaC")


def test_a_second_run_does_nothing(made, questions_file):
    """Seconds, not hours; and another voice pays for speech and checks alone."""
    tmp_path, _ = made
    before = digest(tmp_path / "made")
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "data").rglob("*.sqlite")}
    said = build(tmp_path, questions_file)
    assert "%|" not in said
    assert digest(tmp_path / "made") == before
    assert stamps == {
        file: file.stat().st_mtime_ns for file in (tmp_path / "data").rglob("*.sqlite")
    }
    build(tmp_path, questions_file, output_dir=tmp_path / "other", test_voices=["en-029"])
    changed = {
        file.parent.name for file, stamp in stamps.items() if file.stat().st_mtime_ns != stamp
    }
    assert changed == {"speech", "checks"}


def test_two_workers_make_the_same_data_set(made, questions_file, tmp_path):
    """A voice, a batch or an order that depends on who does the work."""
    build(tmp_path, questions_file, workers=2)
    assert digest(tmp_path / "made") == digest(made[0] / "made")


def test_two_machines_with_one_folder_make_the_same_data_set(made, questions_file, tmp_path):
    """Each has every second shard; whoever comes last, without --shard, finishes."""
    machines = [
        subprocess.Popen(command(tmp_path, questions_file, shard=f"{i}/2"), cwd=ROOT)
        for i in (0, 1)
    ]
    assert [machine.wait(300) for machine in machines] == [0, 0]
    build(tmp_path, questions_file)
    assert digest(tmp_path / "made") == digest(made[0] / "made")


def kill_at_random(tmp_path, questions_file, kills, rng, longest):
    """Start the build and kill -9 it and its children, `kills` times; then let it end."""
    for _ in range(kills):
        started = subprocess.Popen(
            command(tmp_path, questions_file), cwd=ROOT, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(rng.uniform(1.5, longest))
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        for file in (tmp_path / "data" / "shards").rglob("*.json"):
            json.loads(file.read_text())
        for file in (tmp_path / "data" / "shards").rglob("*.parquet"):
            pq.read_table(file)  # whole, or not there
    build(tmp_path, questions_file)


def test_a_build_killed_at_random_ends_in_the_same_bytes(made, questions_file, tmp_path):
    """Power cuts. `pytest -m slow` has twenty of them."""
    kill_at_random(tmp_path, questions_file, 3, random.Random(0), 12.0)
    assert digest(tmp_path / "made") == digest(made[0] / "made")


@pytest.mark.slow
def test_a_build_killed_twenty_times_ends_in_the_same_bytes(made, questions_file, tmp_path):
    """As above, wherever it hurts."""
    kill_at_random(tmp_path, questions_file, 20, random.Random(1), 14.0)
    assert digest(tmp_path / "made") == digest(made[0] / "made")
    assert counts(tmp_path / "made") == counts(made[0] / "made")


class SwappingEngine(EspeakEngine):
    """Says another question's words for one question in twenty."""

    swapped = {}

    def synthesize(self, text, voice):
        return super().synthesize(self.swapped.get(text, text), voice)


def make_arguments(tmp_path, questions_file, **changes):
    settings = {
        "questions": str(questions_file), "cache_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "made"),
        "near_duplicates": 1.0, "max_shard_size": "400KB", **changes,
    }  # fmt: skip
    return BuildArguments(**settings)


def test_swapped_clips_are_found(tmp_path, monkeypatch):
    """A queue that lost its order would teach wrong answers to right questions."""
    rows = [row for row, label in make_rows(600) if label == "yes"][:120]
    questions = [row["question"] for row in rows]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    wrong = random.Random(0).sample(questions, 6)
    others = dict(zip(wrong, [*wrong[1:], wrong[0]], strict=True))
    SwappingEngine.swapped = {
        normalize_for_tts(one): normalize_for_tts(other) for one, other in others.items()
    }
    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: SwappingEngine())
    folder = build_dataset(make_arguments(tmp_path, file), None)
    kept = {
        row["question"]
        for file in (folder / "data").glob("*.parquet")
        for row in pq.read_table(file, columns=["question"]).to_pylist()
    }
    assert not kept & set(wrong)
    assert len(kept) >= 0.85 * (len(questions) - len(wrong))


def test_an_answer_cut_off_is_never_trained_on(questions_file, tmp_path):
    """Half an answer teaches to stop in the middle."""
    teacher = str(LAB / "teacher")
    arguments = make_arguments(
        tmp_path, questions_file, teacher_model_name_or_path=teacher, answer_max_new_tokens=6, recognizer="none"
    )  # fmt: skip
    folder = build_dataset(arguments, fingerprint_teacher(arguments))
    outcome = counts(folder)["rows"]
    assert outcome["answer cut off (length)"] > 5
    rejected = [r for f in (folder / "rejected").glob("*") for r in pq.read_table(f).to_pylist()]
    assert all(row["teacher_response"] for row in rejected)  # marked, and kept


def test_what_an_engine_cannot_speak_stands_aside_until_it_is_asked_again(questions_file, tmp_path):
    """One voice of a pool that does not exist must not stop a night's work, and costs nothing once it is mended."""
    arguments = make_arguments(
        tmp_path, questions_file, train_voices=["en-us", "xx-nope"], recognizer="none"
    )
    folder = build_dataset(arguments, None)
    refused = [
        row for file in (folder / "rejected").glob("*") for row in pq.read_table(file).to_pylist()
    ]
    assert refused
    assert {row["voice"] for row in refused} == {"xx-nope"}
    assert all("espeak-ng has no voice 'xx-nope'" in row["reason"] for row in refused)
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert build_dataset(arguments, None) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    arguments.retry_failed = True
    build_dataset(arguments, None)
    assert (folder / "manifest.json").stat().st_mtime_ns != stamp


class FullGpu(EspeakEngine):
    """An engine whose GPU has no memory left for one text."""

    def synthesize(self, text, voice):
        if "Norway" in text:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().synthesize(text, voice)


def test_a_full_gpu_does_not_make_a_row_unspeakable(tmp_path, monkeypatch):
    """Prevents: rows rejected for good because another process held the GPU's memory for a minute."""
    file = tmp_path / "questions.jsonl"
    asked = ["What is the capital of Norway?", "What is the capital of France?"]
    file.write_text("".join(json.dumps({"question": question}) + "\n" for question in asked))
    monkeypatch.setattr(data_builders.pipeline.stages, "load_engine", lambda _: FullGpu())
    arguments = make_arguments(tmp_path, file, recognizer="none")
    with pytest.raises(ValueError, match=r"1 rows failed.*run this again(.|\n)*out of memory"):
        build_dataset(arguments, None)
    monkeypatch.undo()
    rows = load_dataset_folder(str(build_dataset(arguments, None)))["train"]
    assert sorted(rows["question"]) == sorted(asked)


def test_rows_that_are_never_spoken_need_no_ear(questions_file, tmp_path):
    """A third of the paper's rows train text alone; a shard of nothing else is a shard."""
    arguments = make_arguments(
        tmp_path,
        questions_file,
        channel_shares=["t2t=1"],
        recognizer="whisper",
        recognizer_model="none",
    )
    lines = [json.loads(line) for line in questions_file.read_text().splitlines()]
    file = tmp_path / "train.jsonl"
    train = [line for line in lines if line["split"] == "train"]
    file.write_text("".join(json.dumps(line) + "\n" for line in train))
    arguments.questions = str(file)
    rows = load_dataset_folder(str(build_dataset(arguments, None)))["train"]
    assert len(rows) == len(train)
    assert set(rows["voice"]) == {None}
    assert all(channels == ["t2t"] for channels in rows["channels"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speech_engine": "festival"}, "unknown speech engine 'festival'"),
        ({"recognizer": "ears"}, "unknown recognizer 'ears'"),
        ({"noise": ["rain"]}, "unknown effect 'rain'"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_made(
    questions_file, tmp_path, changes, message
):
    """After the answers of a night."""
    with pytest.raises(ValueError, match=message):
        build_dataset(make_arguments(tmp_path, questions_file, **changes), None)
    assert not (tmp_path / "data").exists()


def test_noise_is_another_column_of_the_same_length(questions_file, tmp_path):
    """Clean and noisy rows that cannot be compared, or a training run that hears the wrong one."""
    from data_builders.arguments import DataArguments

    arguments = make_arguments(tmp_path, questions_file, noise=["room", "noise", "phone"])
    folder = build_dataset(arguments, None)
    (clean, noisy) = (
        load_pairs(DataArguments(dataset_name=str(folder), speech_column=column), None)["train"]
        for column in ("speech", "noisy_speech")
    )
    plain = load_dataset_folder(str(folder))["train"]
    assert clean["speech"][0] == plain["speech"][0]
    assert noisy["speech"][0] == plain["noisy_speech"][0] != plain["speech"][0]
    assert np.mean(plain["noisy_wer"]) > np.mean(plain["wer"])
    assert set(plain["noise"]) == {"room, noise at 5 to 20 dB, phone"}
    again = make_arguments(tmp_path / "again", questions_file, noise=["room", "noise", "phone"])
    assert digest(build_dataset(again, None)) == digest(folder)


def test_a_folder_of_somebody_elses_is_never_replaced(questions_file, tmp_path):
    """output_dir: ~"""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"no data set of build_data\.py"):
        build_dataset(make_arguments(tmp_path, questions_file), None)
    assert (tmp_path / "made" / "thesis.tex").read_text() == "years of work"


def test_a_damaged_shard_is_found_before_it_is_published(questions_file, tmp_path):
    """A bad disk, a half-copied folder."""
    arguments = make_arguments(tmp_path, questions_file, recognizer="none")
    folder = build_dataset(arguments, None)
    shard = next(p for p in (tmp_path / "data" / "shards").rglob("train-00000.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    (folder / "manifest.json").unlink()
    for file in folder.rglob("*"):
        file.is_file() and file.unlink()
    for place in ("data", "rejected", "images"):
        (folder / place).rmdir() if (folder / place).is_dir() else None
    with pytest.raises(ValueError, match=r"train-00000\.parquet is damaged"):
        build_dataset(arguments, None)


def test_a_finished_data_set_is_pushed_in_one_commit(made, tmp_path):
    """Many commits at a time die with 412; rejected rows are nobody's training data."""
    with HubServer() as hub:
        script = "import sys; from pathlib import Path; from data_builders.storage.dataset_folder import push_dataset\n"
        script += "push_dataset(Path(sys.argv[1]), 'tester/spoken', private=True)"
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_test", "HF_HUB_OFFLINE": "0",
                       "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", script, str(made[0] / "made")],
            env=environment, capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert hub.commits == 1
        assert {"README.md", "manifest.json"} < set(hub.files)
        assert sum(name.startswith("data/train-") for name in hub.files) > 1
        assert not any(name.startswith(("rejected", "dropped")) for name in hub.files)


def test_calls_in_flight_are_bounded_by_the_takers_pace():
    """A thousand requests at once in front of one GPU; answers that pile up in memory while a disk is slow."""
    running, most = [], []

    def call(item):
        running.append(item)
        time.sleep(0.01)
        if item % 5 == 4:
            raise ValueError(f"no {item}")
        if item % 7 == 6:
            raise TemporaryFailure(f"later {item}")
        return item * 2

    results = {}
    for item, result in map_concurrent(call, range(20), in_flight=3):
        most.append(len(running) - len(results))
        results[item] = result
    assert len(results) == 20
    assert max(most) <= 3 + 1
    assert results[3] == 6
    assert str(results[4]) == "no 4"
    assert isinstance(results[6], TemporaryFailure)

    def unreachable(item):
        raise ServerUnreachable("nobody there")

    with pytest.raises(ServerUnreachable):
        list(map_concurrent(unreachable, range(1000), in_flight=3))
