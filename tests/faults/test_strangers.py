"""Attacks by files of strangers: pickles, code of repositories, templates that loop, regexes that backtrack."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from data_builders import chat_encoder
from data_builders.causal_lm import TeacherSettings, load_causal_lm
from data_builders.chat_encoder import ChatEncoder
from data_builders.pretrained import load_config, load_tokenizer
from tests.support.lab import STUDENT, TEACHER
from tests.support.pickles import make_pickle, make_torch_file
from trainer_ext.checkpoints.complete import write_checksums
from trainer_ext.export.merge import MergedAdapter
from trainer_ext.loading import adapter_patterns
from trainer_ext.loading.adapter import check_keys, load_adapter
from trainer_ext.students.registry import load_student_family

EVIL = r"(.*.*.*.*.*.*)*!"  # backtracks on every name
LOOPS = {
    "nested": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "recursive": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "raises": "{{ raise_exception('no') }}",
}


@pytest.fixture
def mark(tmp_path) -> Path:
    """The file that a payload would leave."""
    return tmp_path / "run"


@pytest.fixture
def adapter(student, family, tmp_path) -> Path:
    """A saved adapter with an effect."""
    adapted = get_peft_model(student, LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def copy_model(source: str, target: Path, **config) -> Path:
    """Copy a model of the lab, with other values in its config.json."""
    shutil.copytree(source, target)
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return target


@pytest.mark.parametrize("make", [make_pickle, make_torch_file])
def test_a_pickled_adapter_is_refused_unread(adapter, family, student, pristine_student, mark, make):
    """Prevents: code of a downloaded adapter run on this machine."""
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(make(mark))
    fresh = load_student_family(STUDENT).load_model(STUDENT)
    loads = (
        lambda: load_adapter(fresh, str(adapter)),
        lambda: MergedAdapter(str(adapter), family),
        lambda: check_keys(get_peft_model(fresh, LoraConfig(target_modules=["q_proj"])), str(adapter)),
    )
    for load in loads:
        with pytest.raises(ValueError, match="a pickle, which can run any code"):
            load()
    assert not mark.exists()


def test_pickled_models_are_refused_unread(tmp_path, family, mark):
    """Prevents: code of a downloaded student or teacher run on this machine."""
    for source in (STUDENT, TEACHER):
        folder = copy_model(source, tmp_path / Path(source).name)
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        (folder / "pytorch_model.bin").write_bytes(make_torch_file(mark))
    with pytest.raises(OSError, match="safetensors"):
        family.load_model(str(tmp_path / "student"))
    with pytest.raises(OSError, match="safetensors"):
        load_causal_lm(TeacherSettings(str(tmp_path / "teacher")))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_runs_nothing(make_trainer, family, pristine_student, tmp_path, mark, name):
    """Prevents: code of a shared checkpoint run by those who go on from it."""
    settings = dict(max_steps=2, save_steps=1, save_strategy="steps")
    settings["peft_config"] = LoraConfig(target_modules=family.lora_target_modules)
    make_trainer(**settings).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    payload = tmp_path / "payload"
    (checkpoint / name).write_bytes(make_torch_file(payload))
    write_checksums(checkpoint)
    fresh = load_student_family(STUDENT).load_model(STUDENT, dtype=torch.float32)
    trainer = make_trainer(model=fresh, **settings)
    with pytest.raises(ValueError, match="is a pickle with code in it, which is never run"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert not payload.exists()


@pytest.mark.parametrize("asked", ["config", "tokenizer", "teacher", "student"])
def test_code_of_a_repository_never_runs_whatever_is_typed(tmp_path, monkeypatch, mark, asked):
    """Prevents: `yes |`, or a hasty y, running a stranger's Python."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    code = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tok", "evil.Tok"],
    }
    folder = copy_model(TEACHER, tmp_path / "model", model_type="evil", auto_map=code)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": code, "tokenizer_class": "Evil"}))
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nConfig = Model = Tok = object"
    )
    load = {
        "config": lambda: load_config(str(folder)),
        "tokenizer": lambda: load_tokenizer(str(folder)),
        "teacher": lambda: load_causal_lm(TeacherSettings(str(folder))),
        "student": lambda: load_student_family(str(folder)),
    }[asked]
    with pytest.raises(ValueError, match="needs Python code of its own repository, which is never run here"):
        load()
    assert not mark.exists()


@pytest.mark.parametrize("template", list(LOOPS))
def test_a_template_that_does_not_end_is_refused(monkeypatch, template):
    """Prevents: a run that hangs for ever before its first line."""
    monkeypatch.setattr(chat_encoder, "RENDER_SECONDS", 0.5)
    tokenizer = load_tokenizer(TEACHER)
    tokenizer.chat_template = LOOPS[template]
    start = time.monotonic()
    with pytest.raises(ValueError, match="does not render a system prompt and a question"):
        ChatEncoder(tokenizer)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": EVIL},
        {"exclude_modules": EVIL},
        {"rank_pattern": {EVIL: 4}},
        {"alpha_pattern": {EVIL: 4}},
        {"modules_to_save": [EVIL]},
        {"layers_pattern": [EVIL], "layers_to_transform": [0], "target_modules": ["q_proj"]},
        {"target_modules": "(unclosed"},
    ],
)
def test_a_regex_that_backtracks_is_refused(adapter, monkeypatch, family, settings):
    """Prevents: a downloaded adapter that hangs the process that loads it, and ignores Ctrl-C for hours."""
    monkeypatch.setattr(adapter_patterns, "SECONDS", 0.2)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    fresh = load_student_family(STUDENT).load_model(STUDENT)
    start = time.monotonic()
    for load in (lambda: load_adapter(fresh, str(adapter)), lambda: MergedAdapter(str(adapter), family)):
        with pytest.raises(
            ValueError, match=f"{next(iter(settings))} .*(is a regex that cannot|is no regex|is refused)"
        ):
            load()
    assert time.monotonic() - start < 10
