"""The recipe as people start it: a process of its own, from arguments to files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.hub import HubServer

ROOT = Path(__file__).parents[2]
TOKEN = "hf_ThisTokenMustNeverLeaveMemory"
FEW_STEPS = ["--max_steps", "3", "--logging_steps", "1", "--save_steps", "2"]


def run_recipe(
    launcher: list[str], arguments: list[str], **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*launcher, "recipes/s2t_t2t.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def short_prompts(tmp_path_factory) -> str:
    """Every tenth question."""
    file = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    lines = (ROOT / "recipes" / "tiny_lab" / "questions.jsonl").read_text().splitlines()[::10]
    file.write_text("".join(f"{line}\n" for line in lines))
    return str(file)


def test_one_line_runs_from_nothing_to_a_pushed_adapter_with_its_report(tmp_path, short_prompts):
    """The README's command, with fewer questions and steps; the Hub is a real server on this machine."""
    output = tmp_path / "my-adapter"
    arguments = [
        "--output_dir",
        str(output),
        "--cache_dir",
        str(tmp_path / "data"),
        "--questions",
        short_prompts,
    ]
    with HubServer() as hub:
        done = run_recipe(
            ["accelerate", "launch"],
            [*arguments, *FEW_STEPS, "--push_to_hub"],
            HF_ENDPOINT=hub.endpoint,
            HF_TOKEN=TOKEN,
            HF_HUB_OFFLINE="0",
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_TELEMETRY="1",
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert "Exact answers on held-out questions" in done.stdout
    report = json.loads((output / "report.json").read_text())
    assert report["steps"] == 3
    assert report["after"]["all"]["teacher_text"] > 90
    for name in (
        "plots.png",
        "resolved.yaml",
        "README.md",
        "adapter_model.safetensors",
        "adapter_config.json",
    ):
        assert (output / name).stat().st_size > 0
    for name in (
        "tokenizer.json",
        "chat_template.jinja",
        "preprocessor_config.json",
        "trainer_state.json",
    ):
        assert (output / name).is_file()
    assert yaml.safe_load((output / "resolved.yaml").read_text())["max_steps"] == 3

    assert hub.repositories == {"my-adapter"}
    assert (
        hub.files["adapter_model.safetensors"]
        == (output / "adapter_model.safetensors").read_bytes()
    )
    assert hub.files["README.md"] == (output / "README.md").read_bytes()
    assert not any("training_args" in name or "checkpoint" in name for name in hub.files)
    everything = [done.stdout.encode(), done.stderr.encode(), *hub.files.values()]
    everything += [file.read_bytes() for file in output.rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in content for content in everything)


def test_two_processes_train_together(tmp_path, short_prompts):
    """Real DDP over gloo: data built once, scores gathered, one report written."""
    output = tmp_path / "run"
    arguments = [
        "--output_dir",
        str(output),
        "--cache_dir",
        str(tmp_path / "data"),
        "--questions",
        short_prompts,
    ]
    done = run_recipe(
        ["torchrun", "--standalone", "--nproc_per_node", "2"],
        [*arguments, *FEW_STEPS],
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Exact answers on held-out questions") == 1
    assert json.loads((output / "report.json").read_text())["steps"] == 3


def test_a_typing_error_costs_a_line_not_a_night():
    """Before data, models or torch's warnings."""
    done = run_recipe([sys.executable], ["--learning_rat", "1e-4"])
    assert done.returncode == 2
    assert "--learning_rat" in done.stderr.splitlines()[-1]
