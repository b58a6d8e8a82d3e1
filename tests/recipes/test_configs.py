"""Tests that every YAML file in recipes/configs parses and names existing files."""

import re
from pathlib import Path

import pytest
import yaml
from arguments import OmniArguments

from data_builders.arguments import BuildSettings, DataArguments, SoftTargetArguments
from data_builders.sounds.arguments import SoundDataArguments
from tests.support.configs import CONFIGS, DATA_CONFIGS, OMNI_CONFIGS, SOUND_CONFIGS
from tests.support.lab import ROOT
from tests.support.settings import CLASSES
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.parser import RecipeParser


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_parses_and_finds_its_files(file, monkeypatch):
    """Prevents: a config that a rename has broken."""
    monkeypatch.chdir(ROOT)
    parser = RecipeParser((ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig))
    words = ["--config", str(file), "--use_cpu", "true"]  # whose bf16 no card here supports
    model, data, soft, training = parser.parse_args_and_config(words)
    assert training.output_dir == f"outputs/{file.stem}"
    if training.teacher_kind == "stored":
        assert training.temperature in soft.soft_targets_temperatures
        assert f"recipes/cache_teacher.py --config {file.relative_to(ROOT)}" in file.read_text()
    for path in (model.model_name_or_path, model.teacher_model_name_or_path, data.questions):
        assert path is None or not path.startswith("recipes/") or Path(path).exists()
    assert f"--config {file.relative_to(ROOT)}" in file.read_text() or file.stem == "tiny"
    for named in re.findall(r"--config_file (\S+)", file.read_text()):
        assert (ROOT / named).is_file()


@pytest.mark.parametrize("file", DATA_CONFIGS, ids=lambda file: file.stem)
def test_a_data_config_parses_and_finds_its_files(file, monkeypatch):
    """Prevents: a data config that a rename has broken."""
    monkeypatch.chdir(ROOT)
    settings = BuildSettings(*RecipeParser(CLASSES).parse_args_and_config(["--config", str(file)]))
    assert settings.pipeline.output_dir == f"outputs/data/{file.stem}"
    for path in (settings.questions.questions, settings.answers.teacher_model_name_or_path):
        assert path is None or not path.startswith("recipes/") or Path(path).exists()
    assert f"--config {file.relative_to(ROOT)}" in file.read_text() or file.stem == "tiny"


@pytest.mark.parametrize("file", SOUND_CONFIGS, ids=lambda file: file.stem)
def test_sounds_are_answered_by_the_student_that_will_train_on_them(file):
    """Prevents: a teacher of sounds that is not the student before its training."""
    (sounds,) = RecipeParser((SoundDataArguments,)).parse_args_and_config(["--config", str(file)])
    (training,) = re.findall(r"--config (recipes/configs/\w+\.yaml)", file.read_text())
    run = yaml.safe_load((ROOT / training).read_text())
    assert sounds.output_dir == run["sound_dataset_name"]
    assert sounds.model_name_or_path == run["model_name_or_path"]


@pytest.mark.parametrize("file", OMNI_CONFIGS, ids=lambda file: file.stem)
def test_a_config_of_make_omni_leads_to_those_of_its_data_and_its_training(file):
    """Prevents: a model that is made in one folder and looked for in another."""
    (omni,) = RecipeParser((OmniArguments,)).parse_args_and_config(["--config", str(file)])
    assert omni.output_dir == f"outputs/nano/{file.stem}"
    text = file.read_text()
    for command in re.findall(r"--config (\S+)", text):
        assert (ROOT / command).is_file()
    training, data = (
        yaml.safe_load((ROOT / "recipes" / "configs" / name).read_text())
        for name in re.findall(r"recipes/configs/((?:data/)?\w+\.yaml)", text)[::-1]
    )
    last = "adapt" if omni.adapt_steps else "graft"
    assert training["model_name_or_path"] == f"{omni.output_dir}/{last}"
    assert [training["dataset_name"]] == omni.dataset_names == [data["output_dir"]]
    assert data["teacher_model_name_or_path"] == omni.text_model_name_or_path


@pytest.mark.parametrize("file", [f for f in CONFIGS if f.stem.startswith("tiny_")], ids=lambda file: file.stem)
def test_an_ablation_differs_from_the_default_in_what_it_studies(file):
    """Prevents: two changes in one ablation."""
    allowed = {
        "tiny_s2t_only": {"channels"},
        "tiny_t2t_only": {"channels"},
        "tiny_gold": {"hard_targets"},
        "tiny_no_kl": {"teacher_kind"},
        "tiny_self": {"teacher_kind"},
        "tiny_stored": {"teacher_kind", "soft_targets_path", "soft_targets_k"},
        "tiny_reverse_kl": {"divergence"},
        "tiny_jsd": {"divergence", "beta"},
        "tiny_qlora": {"load_in_4bit", "bnb_4bit_quant_type"},
        "tiny_evaluated": {
            "eval_strategy",
            "eval_steps",
            "max_eval_samples",
            "eval_answers",
            "per_device_eval_batch_size",
            "load_best_model_at_end",
            "metric_for_best_model",
            "save_steps",
            "save_total_limit",
        },
        "tiny_sounds": {"model_name_or_path", "channels", "sound_dataset_name", "sound_share"},
        "tiny_full": {"use_peft", "lora_r", "lora_alpha", "lora_dropout", "learning_rate"},
    }[file.stem]
    ours, default = (yaml.safe_load(f.read_text()) for f in (file, file.with_name("tiny.yaml")))
    differing = {key for key in ours.keys() | default.keys() if ours.get(key) != default.get(key)}
    assert differing == allowed | {"output_dir"}
