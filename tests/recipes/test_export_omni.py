"""Tests of recipes/export_omni.py, from a checkpoint in the published layout to the loaded export."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from tests.support.run_script import run_script
from tests.support.tiny_omni import PUBLISHED_NAMES, number_names, read_weights, save_tiny_omni
from trainer_ext.arguments import ModelArguments
from trainer_ext.export.merge import load_trained, read_base_name
from trainer_ext.export.targets import WeightPatch, export_full_model
from trainer_ext.loading.adapter import load_adapter
from trainer_ext.loading.student import load_peft_config, load_student
from trainer_ext.students.registry import load_student_family
from trainer_ext.trainer import CrossModalDistillTrainer

QUESTION = "What is the capital of France?"
# For a separate process that imports nothing of this project.
LOAD_ELSEWHERE = """
import json, sys, torch
from peft import PeftModel
from transformers import Qwen2_5OmniForConditionalGeneration, Qwen2_5OmniThinkerForConditionalGeneration

base, thinker, omni, omni_adapter, dtype, ids, output = sys.argv[1:]
ids = torch.tensor([json.loads(ids)])
results = {}

def load(kind, folder):
    model, info = kind.from_pretrained(folder, dtype=getattr(torch, dtype), output_loading_info=True)
    return model.eval(), info

with torch.no_grad():
    model, info = load(Qwen2_5OmniThinkerForConditionalGeneration, thinker)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    results["thinker"] = model(input_ids=ids).logits
    model = Qwen2_5OmniForConditionalGeneration.from_pretrained(omni, dtype=getattr(torch, dtype)).eval()
    results["omni"] = model.thinker(input_ids=ids).logits
    torch.manual_seed(0)
    text, audio = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_mode="audio", thinker_max_new_tokens=8,
        talker_max_new_tokens=16, talker_eos_token_id=[60, 62],
    )
    results["audio"] = audio
    if omni_adapter != "none":
        model = Qwen2_5OmniForConditionalGeneration.from_pretrained(base, dtype=getattr(torch, dtype))
        model = PeftModel.from_pretrained(model, omni_adapter).eval()
        results["omni_adapter"] = model.thinker(input_ids=ids).logits
assert not any(name.split(".")[0] in ("trainer_ext", "data_builders", "trl") for name in sys.modules)
torch.save(results, output)
"""


@pytest.fixture
def export(monkeypatch, capsys):
    """Run the script in this process; returns its last line if it exits with an error, else ""."""

    def run(trained, target: str, output: Path, *more: str) -> str:
        words = ["--trained", str(trained), "--target", target, "--output_dir", str(output), *more]
        return run_script("export_omni.py", words, monkeypatch, capsys)[1]

    return run


def load_elsewhere(base, thinker, omni, omni_adapter, dtype, ids, output) -> dict[str, torch.Tensor]:
    done = subprocess.run(
        [
            *(sys.executable, "-c", LOAD_ELSEWHERE, str(base), str(thinker), str(omni)),
            *(str(omni_adapter), dtype, json.dumps(ids), str(output)),
        ],
        cwd=output.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output, weights_only=True)


def train(base: Path, output: Path, pairs, teacher, make_config, **model_arguments) -> torch.Tensor:
    """Train a few steps from a full checkpoint; returns the trained student's logits."""
    arguments = ModelArguments(model_name_or_path=str(base), **model_arguments)
    family = load_student_family(str(base))
    trainer = CrossModalDistillTrainer(
        model=load_student(arguments, family),
        args=make_config(max_steps=3, learning_rate=1e-2 if arguments.use_peft else 1e-3),
        family=family,
        teacher=teacher,
        train_dataset=pairs["train"],
        peft_config=load_peft_config(arguments, family),
    )
    trainer.train()
    trainer.save_model(str(output))
    return ask(trainer.model, family)


@torch.no_grad()
def ask(model, family) -> torch.Tensor:
    ids = torch.tensor([family.encode_text_prompt(QUESTION, "")])
    return model.eval()(input_ids=ids).logits


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference relative to the largest logit."""
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())


def test_the_small_checkpoint_has_the_published_weight_names(tiny_omni):
    """Prevents: export tests that pass on a layout which no published model has."""
    assert number_names(read_weights(tiny_omni)) == set(PUBLISHED_NAMES)
    index = json.loads((tiny_omni / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 2
    shard = set(load_file(tiny_omni / min(index.values())))
    assert {name.split(".")[0] for name in shard} == {"thinker", "talker"}  # some shards are shared


def test_only_the_thinker_and_its_audio_tower_are_loaded(tiny_omni):
    """Prevents: loading talker, token2wav and vision tower, 3 of the 10.7 billion published parameters."""
    family = load_student_family(str(tiny_omni))
    model = family.load_model(str(tiny_omni), dtype=torch.float32)
    parts = {name.split(".")[1] for name, _ in model.named_parameters() if name != "lm_head.weight"}
    assert parts == {"audio_tower", "language_model"}
    with pytest.raises(RuntimeError, match="was not loaded"):
        model.model.visual(torch.zeros(1))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), pytest.param("bfloat16", 1e-2, marks=pytest.mark.slow)]
)
def test_an_adapter_is_exported_to_thinker_omni_and_omni_adapter(
    export, dtype, tolerance, tmp_path, pairs, teacher, make_config
):
    """Prevents: an export that loads as the untrained model with only a warning, or has no speech output."""
    base = save_tiny_omni(tmp_path / "base", getattr(torch, dtype))
    adapter = tmp_path / "adapter"
    ours = train(base, adapter, pairs, teacher, make_config, dtype=dtype, use_peft=True, lora_r=8)
    family = load_student_family(str(base))
    untrained = ask(family.load_model(str(base), dtype=getattr(torch, dtype)), family)
    for target in ("omni", "thinker", "omni_adapter"):
        assert not export(adapter, target, tmp_path / target)
    results = load_elsewhere(
        *(base, tmp_path / "thinker", tmp_path / "omni", tmp_path / "omni_adapter"),
        *(dtype, family.encode_text_prompt(QUESTION, ""), tmp_path / "logits.pt"),
    )
    assert distance(ours, untrained) > 5 * tolerance
    for name in ("thinker", "omni", "omni_adapter"):
        assert distance(results[name], ours) < tolerance, name
    assert results["audio"].numel() > 1000
    assert torch.isfinite(results["audio"]).all()
    check_carried_over(base, tmp_path / "omni")


def check_carried_over(base: Path, omni: Path) -> None:
    """Assert that untrained weights are bit-identical and that none is missing."""
    files = {str(file.relative_to(base)) for file in base.rglob("*") if file.is_file()}
    assert files <= {str(file.relative_to(omni)) for file in omni.rglob("*") if file.is_file()}
    assert (omni / "README_base.md").read_bytes() == (base / "README.md").read_bytes()
    for name in files - {"README.md"}:
        if not name.endswith(".safetensors"):
            assert (omni / name).read_bytes() == (base / name).read_bytes(), name
    before, after = read_weights(base), read_weights(omni)
    assert before.keys() == after.keys()
    index = json.loads((omni / "model.safetensors.index.json").read_text())["weight_map"]
    for name, file in index.items():
        assert name in load_file(omni / file) or name not in after
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".layers." in name and name.startswith("thinker.model.") for name in changed)
    assert {tensor.dtype for name, tensor in after.items() if name.startswith("token2wav")} == {torch.float32}


@pytest.mark.slow
def test_a_full_fine_tune_is_exported_with_its_talker(export, tiny_omni, tmp_path, pairs, teacher, make_config):
    """Prevents: an export without talker, voices and index, which must come from the base."""
    trained = tmp_path / "trained"
    ours = train(tiny_omni, trained, pairs, teacher, make_config, dtype="float32")
    family = load_student_family(str(tiny_omni))
    for target in ("thinker", "omni"):
        assert not export(trained, target, tmp_path / target, "--base", str(tiny_omni))
    results = load_elsewhere(
        *(tiny_omni, tmp_path / "thinker", tmp_path / "omni", "none"),
        *("float32", family.encode_text_prompt(QUESTION, ""), tmp_path / "logits.pt"),
    )
    assert distance(results["thinker"], ours) < 1e-5
    assert distance(results["omni"], ours) < 1e-5
    assert results["audio"].numel() > 1000
    before, after = read_weights(tiny_omni), read_weights(tmp_path / "omni")
    for name in before:
        if name.split(".")[0] != "thinker" or name.split(".")[1] in ("audio_tower", "visual"):
            assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [
        ({"use_dora": True}, 1e-5),
        ({"use_rslora": True}, 1e-5),
        ({"lora_r": 4}, 1e-5),
        ({"dtype": "bfloat16"}, 1e-2),
    ],
)
def test_a_4bit_run_is_merged_into_the_unquantized_weights(
    export, variant, tolerance, tiny_omni, tmp_path, pairs, teacher, make_config
):
    """Prevents: keeping the rounding of the 4-bit weights in the merged model."""
    adapter = tmp_path / "adapter"
    arguments = {"dtype": "float32", "lora_r": 8, **variant}
    train(
        tiny_omni, adapter, pairs, teacher, make_config,
        use_peft=True, load_in_4bit=True, **arguments,
    )  # fmt: skip
    family = load_student_family(str(tiny_omni))
    dtype = getattr(torch, arguments["dtype"])
    whole = family.load_model(str(tiny_omni), dtype=dtype)
    ours = ask(load_adapter(whole, str(adapter)), family)
    assert not export(adapter, "thinker", tmp_path / "thinker")
    merged = family.load_model(str(tmp_path / "thinker"), dtype=dtype)
    assert distance(ask(merged, family), ours) < tolerance


def test_adapter_keys_for_vllm_are_those_it_maps(export, tiny_omni, tmp_path, pairs, teacher, make_config):
    """Prevents: keys that vLLM ignores silently: it takes `thinker.model.layers...` alone."""
    adapter = tmp_path / "adapter"
    train(tiny_omni, adapter, pairs, teacher, make_config, dtype="float32", use_peft=True, lora_r=8)
    assert not export(adapter, "vllm_adapter", tmp_path / "vllm")
    saved = load_file(adapter / "adapter_model.safetensors")
    renamed = load_file(tmp_path / "vllm" / "adapter_model.safetensors")
    assert len(renamed) == len(saved)
    published = set(PUBLISHED_NAMES)
    for key in renamed:
        module = key.removeprefix("base_model.model.").partition(".lora_")[0]
        assert number_names([f"{module}.weight"]) <= published
        assert key.startswith("base_model.model.thinker.model.layers.")
    config = json.loads((tmp_path / "vllm" / "adapter_config.json").read_text())
    assert config["r"] == 8
    assert "--max-lora-rank 8" in (tmp_path / "vllm" / "README.md").read_text()


@pytest.fixture
def adapter(tiny_omni, tmp_path):
    """Return an adapter as PEFT makes it, not zero, and its base model."""
    family = load_student_family(str(tiny_omni))
    model = family.load_model(str(tiny_omni), dtype=torch.float32)
    config = LoraConfig(
        target_modules=family.lora_target_modules, r=4, init_lora_weights=False,
        task_type="CAUSAL_LM", base_model_name_or_path=str(tiny_omni),
    )  # fmt: skip
    PeftModel(model, config).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def rewrite(adapter: Path, change) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def test_an_adapter_with_other_keys_is_refused_by_its_keys(export, adapter, tiny_omni, tmp_path):
    """Prevents: an adapter of another model that acts untrained."""
    rewrite(
        adapter, lambda weights: {k.replace("language_model.layers", "transformer.h"): w for k, w in weights.items()}
    )
    family = load_student_family(str(tiny_omni))
    with pytest.raises(ValueError, match=r"unexpected .*transformer\.h\.0.*missing"):
        load_adapter(family.load_model(str(tiny_omni), dtype=torch.float32), str(adapter))
    refusal = export(adapter, "thinker", tmp_path / "thinker")
    assert "unexpected base_model.model.model.transformer.h.0" in refusal
    assert not list(tmp_path.glob("thinker*"))


def test_an_adapter_of_transformers_4_is_loaded_as_peft_loads_it_and_exported_once_it_is_renamed(
    export, adapter, tiny_omni, tmp_path
):
    """Prevents: a refusal of weights that PEFT applies; an export that takes their old names for the model's."""
    family = load_student_family(str(tiny_omni))

    def logits() -> torch.Tensor:
        adapted = load_adapter(family.load_model(str(tiny_omni), dtype=torch.float32), str(adapter))
        return adapted(input_ids=torch.arange(1, 20)[None]).logits

    before = logits()
    rewrite(adapter, lambda weights: {k.replace("language_model.", ""): w for k, w in weights.items()})
    assert torch.equal(logits(), before)
    refusal = export(adapter, "thinker", tmp_path / "thinker")
    assert "unexpected base_model.model.model.layers.0" in refusal
    assert "recipes/doctor.py" in refusal
    assert not list(tmp_path.glob("thinker*"))


def test_an_adapter_that_changes_nothing_is_refused(export, adapter, tiny_omni, tmp_path):
    """Prevents: exporting an adapter saved before its first step or trained at a rate of zero."""
    rewrite(adapter, lambda weights: {k: w * ("lora_A" in k) for k, w in weights.items()})
    family = load_student_family(str(tiny_omni))
    with pytest.raises(ValueError, match=r"changes nothing.*lora_A"):
        load_adapter(family.load_model(str(tiny_omni), dtype=torch.float32), str(adapter))
    for target in ("omni", "omni_adapter", "vllm_adapter"):
        assert "changes nothing" in export(adapter, target, tmp_path / "omni")
    assert not list(tmp_path.glob("omni*"))


def test_an_adapter_trained_on_the_head_as_well_is_merged_whole(export, adapter, tiny_omni, tmp_path):
    """Prevents: dropping `modules_to_save`, which are no LoRA layers."""
    family = load_student_family(str(tiny_omni))
    model = family.load_model(str(tiny_omni), dtype=torch.float32)
    config = LoraConfig(
        target_modules=family.lora_target_modules, r=4, init_lora_weights=False,
        modules_to_save=["lm_head"], base_model_name_or_path=str(tiny_omni),
    )  # fmt: skip
    adapted = PeftModel(model, config)
    with torch.no_grad():
        adapted.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    adapted.save_pretrained(str(tmp_path / "with_head"))
    assert not export(tmp_path / "with_head", "thinker", tmp_path / "thinker")
    merged = family.load_model(str(tmp_path / "thinker"), dtype=torch.float32)
    assert distance(ask(merged, family), ask(adapted, family)) < 1e-5
    assert "modules_to_save" in export(tmp_path / "with_head", "vllm_adapter", tmp_path / "vllm")
    assert "trains whole modules (lm_head)" in export(tmp_path / "with_head", "omni_adapter", tmp_path / "adapter")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"trainable_token_indices": [5, 6]}, "trains single tokens"),
        ({"init_lora_weights": "pissa"}, "was initialized by pissa"),
    ],
)
def test_adapters_that_a_merge_would_lose_are_refused(export, tiny_omni, tmp_path, changed, words):
    """Prevents: a merged model whose logits are off by 4 and 10, without a word."""
    family = load_student_family(str(tiny_omni))
    model = family.load_model(str(tiny_omni), dtype=torch.float32)
    config = LoraConfig(
        target_modules=family.lora_target_modules, r=4, base_model_name_or_path=str(tiny_omni), **changed
    )
    PeftModel(model, config).save_pretrained(str(tmp_path / "adapter"))
    assert words in export(tmp_path / "adapter", "thinker", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_what_the_precision_loses_is_measured_and_float32_keeps_it(adapter, tmp_path, monkeypatch, capsys):
    """Prevents: a merged bfloat16 model that has lost a quarter of what a run at 5e-6 changed, without a word."""
    base = save_tiny_omni(tmp_path / "base", torch.bfloat16)
    rewrite(adapter, lambda weights: {name: w * (1e-3 if "lora_B" in name else 1) for name, w in weights.items()})
    family = load_student_family(str(base))
    exact = load_adapter(family.load_model(str(base), dtype=torch.float32), str(adapter))
    shares, distances = [], []
    for number, more in enumerate([[], ["--dtype", "float32"]]):
        folder = tmp_path / f"thinker{number}"
        words = ["--trained", str(adapter), "--target", "thinker", "--base", str(base), "--output_dir", str(folder)]
        said, error = run_script("export_omni.py", [*words, *more], monkeypatch, capsys)
        assert not error
        shares.append(float(re.search(r"weights: ([\d.]+)% of what training changed", said)[1]))
        assert ("--dtype float32 keeps it" in said) == (number == 0)
        exported = family.load_model(str(folder), dtype="auto")
        assert exported.dtype == (torch.float32 if number else torch.bfloat16)
        distances.append(distance(ask(exported.float(), family), ask(exact, family)))
    assert shares[0] > 20
    assert shares[1] < 0.1
    assert distances[1] < 1e-5 < distances[0]
    assert "dtype is for merged students" in run_script(
        "export_omni.py", [*words[:3], "omni", *words[4:6], "--output_dir", str(tmp_path / "x"), "--dtype", "float32"],
        monkeypatch, capsys,
    )[1]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "target", "words"),
    [
        ({"bias": "lora_only"}, "thinker", "trains biases"),
        ({"lora_bias": True}, "omni", "trains biases"),
        ({"rank_pattern": {"q_proj": 2}}, "vllm_adapter", "by pattern"),
        (
            {"alpha_pattern": {"^model.language_model.layers.0": 2}},
            "omni_adapter",
            "would not match",
        ),
    ],
)
def test_biases_and_changed_strengths_are_refused(export, tiny_omni, tmp_path, changed, target, words):
    """Prevents: an export that differs from the adapter because it has no biases or another strength."""
    family = load_student_family(str(tiny_omni))
    model = family.load_model(str(tiny_omni), dtype=torch.float32)
    config = LoraConfig(
        target_modules=family.lora_target_modules, r=4, init_lora_weights=False,
        base_model_name_or_path=str(tiny_omni), **changed,
    )  # fmt: skip
    PeftModel(model, config).save_pretrained(str(tmp_path / "adapter"))
    assert words in export(tmp_path / "adapter", target, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_inputs_that_cannot_be_exported_are_named_in_one_line(export, adapter, tiny_omni, tmp_path, lab_student):
    """Prevents: copying gigabytes before an error."""
    (tmp_path / "there").mkdir()
    base = ("--base", str(tiny_omni))
    assert "exists already" in export(adapter, "omni", tmp_path / "there")
    no_voice = export(adapter, "omni", tmp_path / "omni", "--base", lab_student)
    assert "has the student's weights alone" in no_voice
    assert "by --base" in export(lab_student, "thinker", tmp_path / "thinker")
    assert "is no adapter" in export(lab_student, "vllm_adapter", tmp_path / "vllm", *base)
    assert "target is one of thinker, omni" in export(adapter, "gguf", tmp_path / "gguf")
    assert {file.name for file in tmp_path.iterdir()} == {"there", "adapter"}


def test_a_killed_export_leaves_no_partial_model(adapter, tmp_path, monkeypatch):
    """Prevents: a folder that looks finished and lacks its last shard."""

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("trainer_ext.export.targets.rewrite_file", fail)
    base, _ = read_base_name(str(adapter))
    family = load_student_family(base)
    changes = WeightPatch(load_trained(str(adapter), family), family.to_memory_name, str(adapter))
    with pytest.raises(OSError, match="disk full"):
        export_full_model(changes, Path(base), tmp_path / "omni", lambda folder: None)
    assert not list(tmp_path.glob("omni*"))
