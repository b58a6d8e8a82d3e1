"""Tests that an error which a person can mend is one message and exit code 2, found before anything expensive."""

import subprocess
import sys

import pytest

from tests.support.lab import ROOT, TEACHER
from tests.support.processes import ENVIRONMENT
from tests.support.run_script import run_script

FILES = {
    "empty.jsonl": (b"", "has no rows"),
    "empty.csv": (b"", "has no rows"),
    "broken.jsonl": (b'{"question": "Hi?"\n', "line 1 is not JSON"),
    "binary.jsonl": (b"\xff\xfe\x00", "cannot be read"),
    "questions.doc": (b"Hi?", "is none of .jsonl, .csv, .tsv, .txt, .json, .parquet"),
    "other.jsonl": (b'{"text": "Hi?"}\n', "has no column 'question'"),
    "split.jsonl": (b'{"question": "Hi?", "split": "te st"}\n', "row 0: 'te st' is no name of a split"),
}


@pytest.fixture
def fail(tmp_path, monkeypatch, capsys):
    """Run the recipe; returns its message, after a check that nothing was answered."""

    def launch(*words: str) -> str:
        places = ["--cache_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run")]
        _, error = run_script("s2t_t2t.py", [*places, *words], monkeypatch, capsys)
        assert not (tmp_path / "data" / "calls").exists()
        return error

    return launch


@pytest.mark.parametrize("name", list(FILES))
def test_a_file_of_questions_that_cannot_be_read_is_named(fail, tmp_path, name):
    """Prevents: "Repo id must be in the form", StopIteration and other raw errors for a person's own file."""
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    error = fail("--questions", str(tmp_path / name), "--teacher_model_name_or_path", TEACHER)
    assert message in error
    assert name in error or "row 0" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--questions", "none.jsonl", "--teacher_model_name_or_path", TEACHER], "there is no file none.jsonl"),
        (["--questions", "recipes/tiny_lab/questions.jsonl"], "the teacher that would answer is the tiny lab's, a toy"),
        (["--dataset_name", "no/such/folder"], "no/such/folder"),
        (["--report_to", "wandbb"], "wandbb is not supported"),
        (["--evaluator", "best"], "evaluator: unknown 'best'; known are exact_answer"),
        (["--resume_from_checkpoint", "none"], "cannot resume from none: there is no such folder"),
        (["--test_voices", "xx-nope"], "no voice 'xx-nope'"),
        (["--lora_modules_to_save", "lm_head"], "modules_to_save ['lm_head'] is refused"),
        (["--load_best_model_at_end"], "load_best_model_at_end"),
    ],
)
def test_an_argument_that_cannot_work_is_named_before_any_work(fail, words, message):
    """Prevents: an error found after data were built, models loaded and the student scored."""
    assert message in fail(*words)


def test_the_traceback_is_there_on_demand():
    """Prevents: a one-line error that nobody can report."""
    words = [sys.executable, "recipes/ask.py", "--model_name_or_path", "none", "--question", "Hi?"]
    for more, code in (([], 2), (["--traceback"], 1)):
        done = subprocess.run([*words, *more], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == code
        assert ("Traceback" in done.stderr) == (code == 1)


def test_accelerate_launch_shows_the_line_and_no_traceback_of_its_own_with_quiet():
    """Prevents: a mendable error buried under the launcher's traceback."""
    words = ["accelerate", "launch", "--quiet", "recipes/s2t_t2t.py", "--learning_rat", "1"]
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1  # the launcher's own, whatever the script's
    assert "--learning_rat" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
