"""Tests of recipes/nano_omni/make_omni.py from a text LLM to a measured speech LLM."""

import json
from pathlib import Path

import pytest
from datasets import DatasetDict, load_from_disk

from tests.support.lab import TEACHER
from tests.support.run_script import run_script
from tests.support.tiny_whisper import save_tiny_whisper

SMALL = [
    "--align_steps", "3", "--align_batch_size", "4", "--adapt_steps", "2", "--adapt_batch_size", "2",
    "--max_new_tokens", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(pairs, tmp_path_factory):
    """The command line of a whole run on the lab's teacher."""
    dataset = tmp_path_factory.mktemp("rows") / "rows"
    DatasetDict({split: rows.select(range(12)) for split, rows in pairs.items()}).save_to_disk(str(dataset))
    whisper = save_tiny_whisper(tmp_path_factory.mktemp("whisper"))
    named = ["--text_model_name_or_path", TEACHER, "--speech_encoder_name_or_path", whisper]
    return [
        *named,
        "--dataset_names",
        str(dataset),
        *SMALL,
        "--output_dir",
        str(tmp_path_factory.mktemp("nano") / "nano"),
    ]


def test_a_text_llm_learns_to_hear_in_stages_that_are_run_once(words, tmp_path, monkeypatch, capsys):
    """Prevents: a stage that does not read what the one before has written."""
    said, error = run_script("nano_omni/make_omni.py", words, monkeypatch, capsys)
    assert error == ""
    assert "graft: seconds" in said
    assert "largest difference of text logits 0.0" in said
    assert "align: seconds" in said
    assert "word error rate" in said
    assert "adapt: seconds" in said
    report = json.loads((Path(words[-1]) / "check" / "report.json").read_text())
    assert {line["name"] for line in report["judge_free"]} == {"forgetting", "misalignment"}
    assert {line["benchmark"] for line in report["scores"]} == {"held-out questions", "clips to repeat"}
    pushed, error = run_script("push.py", [f"{words[-1]}/adapt", "me/nano", "--dry_run"], monkeypatch, capsys)
    assert error == ""
    assert all(name in pushed for name in ("README.md", "model.safetensors", "chat_template.jinja", "preprocessor"))
    card = (Path(words[-1]) / "adapt" / "README.md").read_text()
    assert "largest difference of text logits 0.0" in card
    assert str(Path.home()) not in card
    again, error = run_script("nano_omni/make_omni.py", words, monkeypatch, capsys)
    assert (error, again.count("made before")) == ("", 3)
    _, error = run_script("nano_omni/make_omni.py", [*words, "--adapt_steps", "3"], monkeypatch, capsys)
    assert "adapt was made with other settings" in error
    rows = load_from_disk(words[5])
    DatasetDict(test=rows["test"], train=rows["train"].select(range(11))).save_to_disk(str(tmp_path / "rows"))
    _, error = run_script(
        "nano_omni/make_omni.py", [*words, "--dataset_names", str(tmp_path / "rows")], monkeypatch, capsys
    )
    assert "align was made with other settings" in error  # the data set was built again


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--adapt_repeat_share", "0.9", "--adapt_text_share", "0.1"], "below 1 together"),
        (["--align_batch_size", "0"], "align_batch_size must be 1 or more, got 0"),
        (["--dataset_names", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(words, changed, message, monkeypatch, capsys):
    """Prevents: an hour of alignment before a wrong share is found."""
    _, error = run_script("nano_omni/make_omni.py", [*words, *changed], monkeypatch, capsys)
    assert message in error


@pytest.mark.slow
def test_it_is_healed_asked_and_measured_as_any_student(words, tmp_path, monkeypatch, capsys):
    """Prevents: a model that the other recipes cannot load."""
    _, error = run_script("nano_omni/make_omni.py", words, monkeypatch, capsys)
    assert error == ""
    student, dataset, healed = f"{words[-1]}/adapt", words[words.index("--dataset_names") + 1], str(tmp_path / "healed")
    training = ["--model_name_or_path", student, "--teacher_model_name_or_path", TEACHER, "--dataset_name", dataset]
    training += ["--use_peft", "--use_cpu", "true", "--bf16", "false", "--max_steps", "2", "--output_dir", healed]
    _, error = run_script("s2t_t2t.py", [*training, "--evaluator", "word_overlap"], monkeypatch, capsys)
    assert error == ""
    for question in (["--question", "What is two plus three?"], ["--audio", save_clip(dataset, tmp_path)]):
        said, error = run_script(
            "ask.py", ["--adapter", healed, "--max_new_tokens", "4", *question], monkeypatch, capsys
        )
        assert error == ""
        assert "trained:" in said
    _, error = run_script("nano_omni/make_omni.py", [*words, "--adapters", healed], monkeypatch, capsys)
    assert error == ""
    report = json.loads((Path(words[-1]) / "check" / "report.json").read_text())
    assert set(report["models"]) == {"base", "healed", "teacher"}
    asked = ["--model_name_or_path", student, "--adapters", healed, "--dataset_name", dataset]
    asked += ["--evaluator", "word_overlap", "--max_items", "4", "--max_new_tokens", "4"]
    _, error = run_script("eval_speech.py", [*asked, "--output_dir", str(tmp_path / "eval")], monkeypatch, capsys)
    assert error == ""


def save_clip(dataset: str, folder: Path) -> str:
    """Write the first held-out clip as a file."""
    file = folder / "clip.flac"
    file.write_bytes(load_from_disk(dataset)["test"][0]["speech"]["bytes"])
    return str(file)
