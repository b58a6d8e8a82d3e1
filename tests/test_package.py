"""Tests of the built wheel in a fresh environment, outside the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.lab import ROOT, write_every

WRITE_CARDS = """
import sys
from pathlib import Path

import numpy as np

import trainer_ext
from data_builders.arguments import (
    AnswerArguments, BuildSettings, PipelineArguments, QuestionArguments, SpeechArguments, VerificationArguments
)
from data_builders.pipeline.dataset_card import write_dataset_card
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.hub.export_card import write_export_card
from trainer_ext.hub.model_card import write_model_card
from trainer_ext.hub.run_facts import RunFacts
from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent as family

folder, repository = Path(sys.argv[1]), sys.argv[2]
assert not trainer_ext.__file__.startswith(repository), trainer_ext.__file__
for name in ("data", "model", "export"):
    (folder / name).mkdir()
settings = BuildSettings(
    QuestionArguments(questions="questions.jsonl"), AnswerArguments(), SpeechArguments(), VerificationArguments(),
    PipelineArguments(),
)
counts = {"questions": {"kept": 1}, "rows": {"kept": 1}}
write_dataset_card(folder / "data", settings, None, {"train": 1}, counts, {"wer": np.zeros(1)})
config = CrossModalDistillConfig(output_dir="out", report_to="none", use_cpu=True, bf16=False)
write_model_card(folder / "model", RunFacts("student", use_peft=True), config, family)
for name, target in family.export_targets.items():
    write_export_card(folder / "export", "export", name, target, "adapter", "base", 16)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return the Python of a fresh environment with the wheel and this environment's dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = {"check": True, "capture_output": True, "timeout": 300}
    source = folder / "source"  # setuptools would leave its build/ in the repository
    for name in ("data_builders", "trainer_ext"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *build], **quiet)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], **quiet)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--no-index", str(wheel)], **quiet)
    (site_packages,) = (folder / "venv" / "lib").glob("*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_an_installed_wheel_writes_every_card(installed, tmp_path):
    """Prevents: FileNotFoundError for a template after a night of training; an editable install never misses one."""
    subprocess.run([installed, "-c", WRITE_CARDS, str(tmp_path), str(ROOT)], check=True, cwd=tmp_path)
    for name in ("data", "model", "export"):
        assert "{{" not in (tmp_path / name / "README.md").read_text()


@pytest.mark.slow
def test_a_clones_recipes_train_with_the_installed_wheel(installed, tmp_path):
    """Prevents: a recipe that needs files of the repository which the wheel lacks, hidden by editable installs."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    words = ["--questions", str(write_every(20, tmp_path / "questions.jsonl")), "--max_steps", "3"]
    words += ["--teacher_model_name_or_path", "recipes/tiny_lab/teacher"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HUB_OFFLINE"] = "1"
    command = [installed, "recipes/s2t_t2t.py", *words, "--output_dir", "outputs/run", "--cache_dir", "outputs/data"]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)
    assert (tmp_path / "outputs" / "run" / "adapter_model.safetensors").is_file()
    assert "exact_answer on held-out questions" in (tmp_path / "outputs" / "run" / "README.md").read_text()
