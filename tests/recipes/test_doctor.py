"""Tests of recipes/doctor.py: the right verdict, and what to do, for good and for broken adapters."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tests.support.lab import STUDENT
from tests.support.run_script import run_recipe_script
from trainer_ext.students.registry import load_student_family

LANGUAGE_MODEL = "model.language_model."
BARE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """An adapter with an effect."""
    return save_adapter(tmp_path_factory.mktemp("good") / "adapter")


def save_adapter(folder: Path, **settings) -> Path:
    torch.manual_seed(0)
    family = load_student_family(STUDENT)
    config = LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False, **settings)
    get_peft_model(family.load_model(STUDENT, dtype=torch.float32), config).save_pretrained(str(folder))
    return folder


def change(source: Path, folder: Path, rename=str, value=lambda key, tensor: tensor, **config) -> str:
    """Write a copy with other keys, values or settings."""
    folder.mkdir()
    tensors = load_file(source / "adapter_model.safetensors")
    save_file(
        {rename(key): value(key, tensor) for key, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    settings = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **config}))
    return str(folder)


@pytest.fixture
def examine(monkeypatch, capsys):
    """Return the exit code and the lines of an examination, by their labels."""

    def examine(adapter: str, *words: str) -> tuple[int, dict[str, str]]:
        code, output, _ = run_recipe_script("doctor.py", [adapter, *words], monkeypatch, capsys)
        lines = [(line[:10].strip(), line[10:]) for line in output.splitlines()]
        return code, {label: text for label, text in lines if label}

    return examine


def logits(adapter: str) -> torch.Tensor:
    model = load_student_family(STUDENT).load_model(STUDENT, dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, adapter).eval()(input_ids=torch.arange(1, 20)[None]).logits


def test_a_good_adapter_is_good(good, examine):
    """Prevents: a false alarm."""
    code, lines = examine(str(good))
    assert code == 0
    assert lines["verdict"].startswith("good")
    assert lines["keys"] == "42 of 42 are loaded"
    assert lines["made by"].startswith("peft 0")
    assert "yes, at --max-lora-rank 8" in lines["vLLM"]
    assert "KL " in lines["effect"]


def test_weights_of_transformers_4_that_peft_renames_are_good(good, examine, tmp_path):
    """Prevents: an alarm about adapters that recent versions of PEFT apply; their logits are equal."""
    old = change(good, tmp_path / "old", lambda key: key.replace(LANGUAGE_MODEL, "model."), target_modules=BARE)
    assert torch.equal(logits(old), logits(str(good)))
    code, lines = examine(old)
    assert (code, lines["keys"]) == (0, "42 of 42 are loaded")
    assert "--repaired_dir and then" in lines["vLLM"]


@pytest.mark.parametrize(
    ("prefix", "targets"), [("model.", r"model\.layers\..*_proj"), ("thinker.model.", r"thinker\.model\..*_proj")]
)
def test_an_adapter_with_names_of_another_layout_is_found_and_repaired(good, examine, tmp_path, prefix, targets):
    """Prevents: adapters of transformers 4 or of the full model that act untrained, with a warning at most."""
    old = change(good, tmp_path / "old", lambda key: key.replace(LANGUAGE_MODEL, prefix), target_modules=targets)
    code, lines = examine(old)
    assert code == 1
    assert "nothing of it is applied" in lines["verdict"]
    assert "--repaired_dir" in lines["verdict"]
    repaired = str(tmp_path / "repaired")
    examine(old, "--repaired_dir", repaired)
    assert examine(repaired)[1]["verdict"].startswith("good")
    assert torch.equal(logits(repaired), logits(str(good)))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"value": lambda key, t: t * 0 if "lora_B" in key else t}, "without effect: B is zero everywhere"),
        ({"value": lambda key, t: t * float("nan") if "layers.0.mlp.up_proj.lora_A" in key else t}, "broken: "),
        ({"rename": lambda key: key.replace("language_model.layers", "transformer.h")}, "of another model"),
        ({"value": lambda key, t: t[:, 2:].contiguous() if "lora_A" in key else t}, "of another model"),
        ({"rename": lambda key: key.replace("layers.0.mlp.up", "layers.9.mlp.up")}, "a part of it is not applied"),
    ],
)
def test_a_broken_adapter_has_its_finding(good, examine, tmp_path, changes, verdict):
    """Prevents: hours in the dark with an adapter that does nothing, or half of what it was trained to do."""
    code, lines = examine(change(good, tmp_path / "broken", **changes))
    assert code == 1
    assert lines["verdict"].startswith(verdict)


def test_a_rank_that_is_not_the_weights_is_named(good, examine, tmp_path):
    """Prevents: a search for another base model, where one number of the config is wrong."""
    code, lines = examine(change(good, tmp_path / "rank", r=4))
    assert (code, "says rank 4, and the weights have 8" in lines["verdict"]) == (1, True)


def test_finite_weights_that_make_nan_are_found(good, examine, tmp_path):
    """Prevents: a good verdict for an adapter whose answers are empty."""
    code, lines = examine(change(good, tmp_path / "huge", value=lambda _, tensor: tensor * 1e18))
    assert (code, lines["verdict"].startswith("broken: the logits")) == (1, True)


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [({"init_lora_weights": "pissa"}, "which changes the base weights"), ({"bias": "lora_only"}, "trains biases")],
)
def test_an_adapter_that_cannot_be_turned_off_is_found(good, examine, tmp_path, settings, verdict):
    """Prevents: answers "without the adapter" that are not the base's."""
    code, lines = examine(change(good, tmp_path / "on", **settings))
    assert (code, verdict in lines["verdict"]) == (1, True)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None])
def test_damaged_weights_are_named(good, tmp_path, monkeypatch, capsys, content):
    """Prevents: a traceback of safetensors, for a download that was cut."""
    folder = Path(change(good, tmp_path / "cut"))
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    code, _, errors = run_recipe_script("doctor.py", [str(folder)], monkeypatch, capsys)
    assert (code, "Download it again" in errors) == (2, True)


def test_other_types_of_adapters_are_examined(examine, tmp_path):
    """Prevents: a traceback for whoever does not use LoRA."""
    torch.manual_seed(0)
    family = load_student_family(STUDENT)
    config = LoHaConfig(target_modules=family.lora_target_modules, init_weights=False)
    get_peft_model(family.load_model(STUDENT, dtype=torch.float32), config).save_pretrained(str(tmp_path / "loha"))
    code, lines = examine(str(tmp_path / "loha"))
    assert (code, "vLLM serves LoRA alone" in lines["vLLM"]) == (0, True)


def test_a_dora_adapter_is_good_and_not_for_vllm(examine, tmp_path):
    """Prevents: vLLM that refuses, or ignores, the magnitudes."""
    code, lines = examine(str(save_adapter(tmp_path / "dora", use_dora=True)))
    assert code == 0
    assert lines["vLLM"].startswith("no: vLLM does not serve adapters with DoRA")


def test_a_pickle_is_refused(good, tmp_path, monkeypatch, capsys):
    """Prevents: code of strangers that runs when their weights are read."""
    (tmp_path / "adapter_config.json").write_bytes((good / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    code, _, errors = run_recipe_script("doctor.py", [str(tmp_path)], monkeypatch, capsys)
    assert code == 2
    assert "a pickle, which can run any code when it is loaded: refused" in errors
    assert not list(tmp_path.parent.rglob("owned"))
