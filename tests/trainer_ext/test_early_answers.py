"""Tests of the answers that a recipe gives before its imports."""

import gc
import json
import os
import subprocess
import sys
import time

import pytest

from data_builders.arguments import DataArguments, SoftTargetArguments
from recipes.doctor import DoctorArguments
from trainer_ext import early_answers
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.command_line import run_command
from trainer_ext.early_answers import EarlyParser, describe_parser, locate_cache
from trainer_ext.parser import RecipeParser

from ..support.lab import ROOT
from ..support.run_script import run_script

CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
RECIPE = ROOT / "recipes" / "doctor.py"


def make_parser() -> RecipeParser:
    kinds = (ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig)
    return RecipeParser(kinds, CONFIGS[0], alternatives=[("dataset_name", "questions")])


def make_early(parser: RecipeParser) -> EarlyParser:
    return EarlyParser(json.loads(json.dumps(describe_parser(parser))))


@pytest.mark.parametrize("shows_all", [False, True])
def test_the_early_help_is_the_recipes(shows_all):
    """Prevents: a help that lacks arguments, or tells of other defaults."""
    for parser in (make_parser(), RecipeParser((DoctorArguments,), positional=("adapter",))):
        early = make_early(parser)
        parser.shows_all = early.shows_all = shows_all
        assert early.format_help() == parser.format_help()


def test_no_bundled_config_is_refused_early():
    """Prevents: a recipe that cannot be run any more."""
    for config in CONFIGS:
        parser = make_parser()
        early = make_early(parser)
        words = early.read_words(["--config", str(config), "--seed", "3", "--no_dataloader_pin_memory"])
        assert words == parser.read_words(["--config", str(config), "--seed", "3", "--no_dataloader_pin_memory"])
        assert early.parse_args(words).seed == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--kl_weigth", "0.5"],
        ["--kl_weight", "much"],
        ["--config", "missing.yaml"],
        ["--config"],
        ["word"],
        ["--config", str(ROOT / "pyproject.toml")],
    ],
)
def test_an_early_error_is_the_recipes(words, capsys):
    """Prevents: two messages for one mistake."""
    messages = []
    for parser in (make_early(make_parser()), make_parser()):
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args(parser.read_words(words))
        assert stopped.value.code == 2
        messages.append(capsys.readouterr().err)
    assert messages[0] == messages[1] != ""


@pytest.mark.parametrize(
    ("value", "refused"), [("me/model", False), ("./model", True), ("a/b/c", True), ("q.jsonl", True)]
)
def test_a_path_that_is_not_there_is_refused_and_an_id_of_the_hub_is_not(value, refused, capsys, tmp_path, monkeypatch):
    """Prevents: a minute of imports before a mistyped path, or the refusal of a model on the Hub."""
    monkeypatch.chdir(tmp_path)
    parser = make_early(make_parser())
    if refused:
        with pytest.raises(SystemExit):
            early_answers.check_places(parser, {"questions": value})
        assert value in capsys.readouterr().err
    else:
        early_answers.check_places(parser, {"questions": value})


def test_a_plan_is_made_before_its_data(capsys, tmp_path, monkeypatch):
    """Prevents: a memory plan that asks for the data set which the plan is to decide on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["--config", str(ROOT / "recipes/configs/tiny.yaml"), "--dataset_name", "not/made/yet", "--gpu", "24GB"]
    for _ in range(2):  # the second time, the recipe's arguments are cached
        said, refusal = run_script("plan_memory.py", words, monkeypatch, capsys)
        assert not refusal
        assert "fits 24 GB" in said
    assert len(list(tmp_path.rglob("plan_memory-*.json"))) == 1


def run_recipe(home, *words):
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-X", "importtime", str(RECIPE), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_the_second_answer_imports_no_torch(tmp_path):
    """Prevents: seconds of waiting for a help, a mistyped key or a missing file."""
    first, second = run_recipe(tmp_path, "--help"), run_recipe(tmp_path, "--help")
    assert first[:2] == second[:2]
    assert "| torch\n" in first[2]
    assert "| torch\n" not in second[2]
    code, _, messages = run_recipe(tmp_path, "--adaptor", "x")
    assert code == 2
    assert "unrecognized arguments: --adaptor" in messages
    assert "| torch\n" not in messages


def test_a_damaged_cache_is_no_answer(tmp_path, monkeypatch):
    """Prevents: a recipe that a half-written file stops."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["doctor.py", "--help"])
    file = locate_cache(RECIPE)
    file.parent.mkdir()
    for content in ("", "{}", "[]", '{"prog": 1}'):
        file.write_text(content)
        early_answers.answer_early("__main__", str(RECIPE))
    gc.enable()
    monkeypatch.setattr(early_answers, "_cache", None)


def test_the_garbage_collector_rests_during_the_imports_alone(tmp_path, monkeypatch):
    """Prevents: seconds of searches in modules that stay, or a run whose memory grows without end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    early_answers.answer_early("another_module", str(RECIPE))
    assert gc.isenabled()
    early_answers.answer_early("__main__", str(RECIPE))
    assert not gc.isenabled()
    seen = []
    monkeypatch.setattr("signal.signal", lambda *_: None)
    run_command(lambda: seen.append((gc.isenabled(), gc.get_freeze_count() > 0)))
    assert seen == [(True, True)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    monkeypatch.setattr(early_answers, "_cache", None)


def test_a_cache_of_another_version_is_removed_after_a_month(tmp_path, monkeypatch):
    """Prevents: a folder that grows with every update."""
    monkeypatch.setattr(early_answers, "_cache", tmp_path / "ask-2.json")
    for age, name in ((40, "ask-1.json"), (20, "doctor-1.json")):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, times=(0, time.time() - age * 24 * 3600))
    early_answers.remember(make_parser())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ask-2.json", "doctor-1.json"]


def test_a_changed_file_or_version_is_answered_anew(tmp_path, monkeypatch):
    """Prevents: the arguments of yesterday's code or of another transformers."""
    package, recipe = tmp_path / "trainer_ext" / "arguments.py", tmp_path / "recipes" / "mine.py"
    for file in (package, recipe):
        file.parent.mkdir()
        file.write_text("a = 1")
    monkeypatch.setattr(early_answers, "PACKAGES", [package.parent])
    places = [locate_cache(recipe)]
    for file in (package, recipe):
        file.write_text("a = 12")
        places.append(locate_cache(recipe))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    places.append(locate_cache(recipe))
    assert len(set(places)) == 4
