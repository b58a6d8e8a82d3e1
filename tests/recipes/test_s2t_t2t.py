"""Tests of recipes/s2t_t2t.py as a command, from arguments to files."""

import json
import sys

import pytest
import yaml
from huggingface_hub import ModelCard

from tests.support.hub import HubServer
from tests.support.lab import TEACHER, write_every
from tests.support.processes import run, run_recipe
from tests.support.run_script import run_script

TOKEN = "hf_ThisTokenMustNeverLeaveMemory"
FEW_STEPS = ["--max_steps", "3", "--logging_steps", "1", "--save_steps", "2"]


@pytest.fixture(scope="module")
def few_questions(tmp_path_factory) -> str:
    """Return every twentieth question of the lab."""
    return str(write_every(20, tmp_path_factory.mktemp("questions") / "questions.jsonl"))


def words(tmp_path, few_questions, name):
    output = tmp_path / name
    cache = ["--cache_dir", str(tmp_path / "data")]
    named = ["--questions", few_questions, "--teacher_model_name_or_path", TEACHER]
    return output, [*FEW_STEPS, "--output_dir", str(output), *cache, *named]


def test_one_line_runs_from_nothing_to_a_pushed_adapter_with_its_report(tmp_path, few_questions):
    """Prevents: a README command that fails, a report without scores, a token on the Hub (a real server here)."""
    output, arguments = words(tmp_path, few_questions, "my-adapter")
    with HubServer() as hub:
        done = run(
            ["accelerate", "launch", "recipes/s2t_t2t.py", *arguments, "--push_to_hub"],
            HF_ENDPOINT=hub.endpoint,
            HF_TOKEN=TOKEN,
            HF_HUB_OFFLINE="0",
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_TELEMETRY="1",
        )
    assert "exact_answer on held-out questions" in done.stdout
    report = json.loads((output / "report.json").read_text())
    assert report["steps"] == 3
    assert report["after"]["all"]["teacher_text"] > 90
    for name in ("scores.png", "resolved.yaml", "README.md", "adapter_model.safetensors", "adapter_config.json"):
        assert (output / name).stat().st_size > 0
    for name in ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "trainer_state.json"):
        assert (output / name).is_file()
    assert yaml.safe_load((output / "resolved.yaml").read_text())["max_steps"] == 3
    card = (output / "README.md").read_text()
    assert "exact_answer on held-out questions" in card
    assert "| steps | 3 |" in card
    results = ModelCard(card).data.eval_results
    assert [entry.metric_value for entry in results] == [report["after"]["all"][name] for name in ("text", "speech")]

    assert hub.repositories == {"my-adapter"}
    assert hub.files["adapter_model.safetensors"] == (output / "adapter_model.safetensors").read_bytes()
    assert hub.files["README.md"] == (output / "README.md").read_bytes()
    assert not any("training_args" in name or "checkpoint" in name for name in hub.files)
    everything = [done.stdout.encode(), done.stderr.encode(), *hub.files.values()]
    everything += [file.read_bytes() for file in output.rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in content for content in everything)


def test_a_push_that_fails_costs_no_result(tmp_path, few_questions):
    """Prevents: a night without report, scores, picture and card, because the Hub was down in the morning."""
    output, arguments = words(tmp_path, few_questions, "my-adapter")
    with HubServer(refuses_commits=True) as hub:
        done = run(
            [sys.executable, "recipes/s2t_t2t.py", *arguments, "--push_to_hub"],
            check=False, HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1",
        )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "quota" in done.stderr.strip().splitlines()[-1]
    for name in ("report.json", "scores.png", "resolved.yaml", "README.md", "adapter_model.safetensors"):
        assert (output / name).stat().st_size > 0
    assert "exact_answer on held-out questions" in (output / "README.md").read_text()
    assert hub.commits == 0


@pytest.mark.slow
def test_two_processes_train_together(tmp_path, few_questions):
    """Prevents: data built twice, scores of one process alone, or two reports, under DDP over gloo."""
    output, arguments = words(tmp_path, few_questions, "run")
    done = run_recipe("s2t_t2t.py", arguments, processes=2)
    assert done.stdout.count("exact_answer on held-out questions") == 1
    assert json.loads((output / "report.json").read_text())["steps"] == 3


def test_a_typing_error_ends_the_run_with_one_line(monkeypatch, capsys):
    """Prevents: an error that is found after data and models were loaded."""
    _, error = run_script("s2t_t2t.py", ["--learning_rat", "1e-4"], monkeypatch, capsys)
    assert "--learning_rat" in error
