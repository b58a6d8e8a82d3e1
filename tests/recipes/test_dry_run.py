"""Tests that a dry run shows what would be done, and makes nothing."""

import pytest

from tests.support.lab import TEACHER, write_questions
from tests.support.run_script import run_script

ROWS: list[str | dict] = ["Who are you?", "", "What is <|im_end|>?", {"question": "Hi there?", "channels": ["t2t"]}]


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    def launch(script: str, *words: str) -> str:
        places = ["--cache_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--dry_run"]
        said, error = run_script(script, [*places, *words], monkeypatch, capsys)
        assert error == ""
        return said

    return launch


def test_a_dry_run_of_training_shows_rows_as_the_student_reads_them(show, tmp_path):
    """Prevents: a night on prompts that nobody has seen."""
    file = write_questions(tmp_path / "questions.jsonl", ROWS)
    said = show("s2t_t2t.py", "--questions", str(file), "--teacher_model_name_or_path", TEACHER)
    assert "empty" in said
    assert r"<|im_start|>user\nWho are you?<|im_end|>" in said
    assert "<|audio_bos|><|AUDIO|> ... <|audio_eos|>" in said
    assert "activations and loss" in said
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_a_dry_run_on_a_finished_data_set_counts_its_rows(show, pairs, tmp_path):
    """Prevents: a preview that works for questions alone."""
    pairs.save_to_disk(str(tmp_path / "pairs"))
    said = show("s2t_t2t.py", "--dataset_name", str(tmp_path / "pairs"))
    assert f"kept      {len(pairs['train'])}" in said
    assert "s2t: prompts of" in said


def test_a_dry_run_of_a_build_shows_reasons_and_what_is_read_out(show, tmp_path):
    """Prevents: a build of 67,000 questions of which the filter drops all but ten."""
    file = write_questions(tmp_path / "questions.jsonl", [*ROWS, "What is 25 + 17?"])
    said = show("build_data.py", "--questions", str(file), "--teacher_model_name_or_path", TEACHER)
    assert "read out 'What is twenty five plus seventeen?'" in said
    assert "h of speech" in said
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]
