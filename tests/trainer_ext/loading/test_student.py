"""Tests of LoRA, QLoRA and full fine-tuning: trained modules, quantized modules, reloading."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from data_builders.arguments import DataArguments, SoftTargetArguments
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.loading.student import (
    check_not_quantized,
    count_linear_classes,
    load_peft_config,
    load_student,
)
from trainer_ext.parser import RecipeParser

LOAD_WITH_PEFT_ALONE = """
import json, sys, torch
from peft import PeftModel
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

adapter, base, ids, output = sys.argv[1:]
thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
thinker = PeftModel.from_pretrained(thinker, adapter).eval()
assert not any(name.split(".")[0] in ("trainer_ext", "data_builders", "trl") for name in sys.modules)
with torch.no_grad():
    torch.save(thinker(input_ids=torch.tensor([json.loads(ids)])).logits, output)
"""


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_adapter_gives_the_same_logits_with_transformers_and_peft_alone(
    make_trainer, family, tmp_path, lab_student
):
    """Prevents: adapter keys that do not match, which load with a warning and act untrained."""
    trainer = make_trainer(
        peft_config=LoraConfig(target_modules=family.lora_target_modules, r=4),
        max_steps=3,
        learning_rate=1e-2,
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    ids = family.encode_text_prompt("What is the capital of France?", "")
    trainer.model.eval()
    with torch.no_grad():
        ours = trainer.model(input_ids=torch.tensor([ids])).logits
        with trainer.model.disable_adapter():
            untrained = trainer.model(input_ids=torch.tensor([ids])).logits
    output = tmp_path / "logits.pt"
    subprocess.run(
        [
            sys.executable,
            "-c",
            LOAD_WITH_PEFT_ALONE,
            str(tmp_path / "adapter"),
            lab_student,
            json.dumps(ids),
            str(output),
        ],
        check=True,
        cwd=tmp_path,
    )
    theirs = torch.load(output, weights_only=True)
    assert torch.equal(ours, theirs)
    assert (ours - untrained).abs().max() > 0.1


def test_a_full_fine_tune_reloads_with_plain_transformers(make_trainer, family, tmp_path):
    """Prevents: trained weights under other names, which are replaced by fresh ones with a warning."""
    trainer = make_trainer(max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    again, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        tmp_path / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.tensor([family.encode_text_prompt("What is the capital of France?", "")])
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(trainer.model(input_ids=ids).logits, again.eval()(input_ids=ids).logits)


@pytest.fixture
def qlora_arguments(lab_student):
    return ModelArguments(model_name_or_path=lab_student, dtype="float32", use_peft=True, load_in_4bit=True, lora_r=8)


def test_qlora_quantises_the_language_model_and_nothing_else(qlora_arguments, family):
    """Prevents: a quantized audio tower, which transformers made despite `llm_int8_skip_modules=["audio_tower"]`."""
    census = count_linear_classes(load_student(qlora_arguments, family))
    assert set(census["model.language_model"]) == {"Linear4bit"}
    assert set(census["model.audio_tower"]) == {"Linear"}
    assert "model.visual" not in census  # not in memory at all
    assert set(census["lm_head"]) == {"Linear"}


def test_a_quantised_tower_is_noticed(qlora_arguments, family):
    """Prevents: a check that cannot fail: a quantized tower is given to it."""
    model = load_student(qlora_arguments, family)
    with pytest.raises(RuntimeError, match=r"model.language_model came out as Linear4bit"):
        check_not_quantized(model, ["model.language_model"])


def test_qlora_trains_on_the_cpu_and_saves_its_adapter(qlora_arguments, family, teacher, pairs, make_config, tmp_path):
    """Prevents: LoRA layers on 4-bit weights that get no gradient."""
    from trainer_ext.trainer import CrossModalDistillTrainer

    model = load_student(qlora_arguments, family)
    trainer = CrossModalDistillTrainer(
        model=model,
        args=make_config(max_steps=12, learning_rate=5e-3),
        family=family,
        teacher=teacher,
        train_dataset=pairs["train"].select(range(4)),
        peft_config=load_peft_config(qlora_arguments, family),
    )
    trainer.model.eval()
    with torch.no_grad():  # the recipe scores before it trains; bitsandbytes repacks the weights there
        trainer.model(input_ids=torch.tensor([family.encode_text_prompt("What is one plus one?", "")]))
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters() if p.requires_grad)
    trainer.train()
    assert losses(trainer)[-1] < 0.5 * losses(trainer)[0]
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size > 10_000


def test_lora_lands_on_the_language_model_alone(student, family):
    """Prevents: LoRA on the audio tower by a bare "q_proj", which no server can load."""
    from peft import get_peft_model

    model = get_peft_model(student, LoraConfig(target_modules=family.lora_target_modules))
    adapted = {name for name, _ in model.named_modules() if name.endswith("lora_A")}
    assert len(adapted) == 7 * family.config.text_config.num_hidden_layers
    assert all("language_model.layers" in name for name in adapted)


def test_an_adapter_on_the_head_is_refused(make_trainer):
    """Prevents: an adapter that is saved untrained: the loss reads the head's own weight."""
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        make_trainer(peft_config=LoraConfig(target_modules=["q_proj", "lm_head"]))


def test_training_continues_the_adapter_of_a_peft_model(make_trainer, student, family):
    """Prevents: a second adapter for users who pass a PeftModel to TRL's trainers."""
    from peft import get_peft_model

    adapted = get_peft_model(student, LoraConfig(target_modules=family.lora_target_modules))
    trainer = make_trainer(model=adapted, max_steps=1)
    before = {name: p.clone() for name, p in adapted.named_parameters() if "lora_B" in name}
    trainer.train()
    after = dict(adapted.named_parameters())
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_quantised_student_without_lora_is_refused(lab_student):
    """Prevents: training the head alone: 4-bit weights have no gradient."""
    with pytest.raises(ValueError, match="set use_peft"):
        ModelArguments(model_name_or_path=lab_student, load_in_4bit=True)


def test_an_adapter_records_the_revision_of_its_base(lab_student, family):
    """Prevents: adding an adapter to other weights because its base is loaded from `main`."""
    named = ModelArguments(model_name_or_path=lab_student, use_peft=True, model_revision="v2")
    assert load_peft_config(named, family).revision == "v2"
    unnamed = ModelArguments(model_name_or_path=lab_student, use_peft=True)
    assert load_peft_config(unnamed, family).revision is None


@pytest.mark.parametrize("optim", ["adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit"])
def test_small_optimizers_train_the_whole_model(make_trainer, pairs, optim):
    """Prevents: a full fine-tune that needs eight bytes of optimizer state per weight instead of two."""
    four = pairs["train"].select(range(4))
    trainer = make_trainer(train_dataset=four, max_steps=12, learning_rate=5e-4, optim=optim)
    trainer.train()
    assert losses(trainer)[-1] < 0.5 * losses(trainer)[0]
    states = trainer.optimizer.state
    kinds = {value.dtype for state in states.values() for value in state.values() if torch.is_tensor(value)}
    assert (torch.uint8 in kinds) == ("8bit" in optim)


QUANTIZED = [
    file
    for file in sorted((Path(__file__).parents[3] / "recipes" / "configs").glob("*.yaml"))
    if yaml.safe_load(file.read_text()).get("load_in_4bit")
]


@pytest.mark.parametrize("file", QUANTIZED, ids=lambda file: file.stem)
def test_every_quantized_recipe_has_the_expected_module_classes(file, tiny_omni, family, monkeypatch):
    """Prevents: 4-bit modules, or adapters, where none are meant."""
    monkeypatch.chdir(file.parents[2])
    parser = RecipeParser((ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig))
    arguments, *_ = parser.parse_args_and_config(
        ["--config", str(file), "--use_cpu", "true", "--model_name_or_path", str(tiny_omni)]
    )
    model = load_student(arguments, family)
    census = count_linear_classes(model)
    layers = family.config.text_config.num_hidden_layers
    assert census["model.language_model"] == {"Linear4bit": 7 * layers}
    assert set(census["model.audio_tower"]) == set(census["lm_head"]) == {"Linear"}
    assert {name.split(".")[1] for name in census if name != "lm_head"} == {
        "language_model",
        "audio_tower",
    }
    nested = {module.weight.quant_state.nested for module in model.modules() if type(module).__name__ == "Linear4bit"}
    assert nested == {arguments.use_bnb_nested_quant}
    adapted = get_peft_model(model, load_peft_config(arguments, family))
    kinds = {type(module).__name__ for module in adapted.modules() if "lora" in type(module).__module__}
    assert "Linear4bit" in kinds
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * layers
    assert all("language_model.layers" in name for name in trained)
