"""Test of the recipe with a person's first sixty questions, in one go."""

import json

import pyarrow.parquet as pq
import pytest

from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.lab import TEACHER, write_questions
from tests.support.messy_questions import QUESTIONS, RIGHT, WRONG
from tests.support.run_script import run_script


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """Run the recipe on the questions; returns output, error and the folders of finished data sets."""
    rows: list[str | dict] = [{"question": text, "id": f"mine-{n}"} for n, text in enumerate(QUESTIONS)]
    file = write_questions(tmp_path / "mine.jsonl", rows)

    def launch(*more: str):
        words = ["--questions", str(file), "--teacher_model_name_or_path", TEACHER]
        words += ["--cache_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--max_steps", "2"]
        said, error = run_script("s2t_t2t.py", [*words, "--recordings_per_question", "1", *more], monkeypatch, capsys)
        return said, error, [manifest.parent for manifest in (tmp_path / "data").glob("*/manifest.json")]

    return launch


def test_sixty_messy_questions_go_through_in_one_go(start, tmp_path):
    """Prevents: five runs that each stop at the next bad question, by a traceback; a question that steers the model."""
    said, error, (folder,) = start()
    assert error == ""
    assert len(QUESTIONS) == 60
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()

    # What the text alone tells is said before the teacher answers, and again in the one table with all other reasons.
    announced = said.split(" questions are left out: ")[1].split("\n")[0]
    assert sorted(announced.split(", ")) == sorted(f"{reason} {len(texts)}" for reason, texts in WRONG.items())
    assert said.count("outcome") == 1
    counts = json.loads((folder / "manifest.json").read_text())["counts"]["questions"]
    assert counts == {"read": 60, "kept": len(RIGHT), **{reason: len(texts) for reason, texts in WRONG.items()}}
    dropped = pq.read_table(folder / "dropped.parquet").to_pylist()
    expected = [reason for reason, texts in WRONG.items() for _ in texts]
    assert [row["code"] for row in dropped] == expected
    assert [row["source_id"] for row in dropped] == [f"mine-{n}" for n in range(len(RIGHT), 60)]

    # A run that allows none is refused on the finished data set too.
    _, error, _ = start("--strict", "--overwrite_output_dir")
    assert "9 of 60 questions cannot be used" in error

    # Every other question is trained on, or listed with its reason.
    splits = load_dataset_folder(str(folder))
    kept, held_out = splits["train"], splits["test"]
    listed = {row["id"] for file in (folder / "rejected").glob("*") for row in pq.read_table(file).to_pylist()}
    if (file := tmp_path / "run" / "rejected_rows.jsonl").exists():
        listed |= {json.loads(line)["id"] for line in file.read_text().splitlines()}
    assert len(listed | set(kept["id"])) + len(set(held_out["question"])) == len(RIGHT)
    trained = [text for text, row_id in zip(kept["question"], kept["id"], strict=True) if row_id not in listed]
    assert len(trained) > 40
    assert "<|AUDIO|> what do you hear?" in {*trained, *held_out["question"]}


def test_what_the_run_did_is_measured_on_questions_that_it_did_not_train(start, tmp_path):
    """Prevents: a run on one's own questions that ends in "no scores", or scores of questions that were trained."""
    said, error, (folder,) = start("--test_share", "0.2")
    assert error == ""
    splits = load_dataset_folder(str(folder))
    assert 4 < len(set(splits["test"]["question"])) < 18
    assert not set(splits["test"]["question"]) & set(splits["train"]["question"])
    assert "word_overlap on held-out questions" in said
    assert "misalignment, nats per response token: " in said
    run = tmp_path / "run"
    report = json.loads((run / "report.json").read_text())
    assert {line["name"] for line in report["judge_free"]} == {"forgetting", "misalignment"}
    assert report["after"]["all"]["teacher_text"] == 100
    asked = {json.loads(line)["item"]["question"] for line in next(run.rglob("*.text.*.jsonl")).open()}
    assert asked == set(splits["test"]["question"])
    for name in ("report.md", "scores.png", "lengths.png", "loss.png", "_answers/index.html"):
        assert (run / name).stat().st_size > 0
    assert "word_overlap on held-out questions" in (run / "README.md").read_text()


def test_strict_names_all_of_them_before_anything_is_answered(start, tmp_path):
    """Prevents: errors one after the other, each after the teacher has answered all questions."""
    _, error, folders = start("--strict")
    assert "Traceback" not in error
    assert "9 of 60 questions cannot be used" in error
    assert all(f"row {number}: " in error for number in range(len(RIGHT), 60))
    assert folders == []
    assert not (tmp_path / "data" / "calls").exists()
