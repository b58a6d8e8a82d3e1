"""Tests that an adapter is trained, planned and exported, or refused before training."""

import copy

import pytest
from peft import EvaConfig, IA3Config, LoraConfig

from trainer_ext.arguments import ModelArguments
from trainer_ext.loading.adapter_config import confine_target_modules
from trainer_ext.loading.student import load_peft_config

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def trained(trainer):
    return {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("names", [SEVEN, ["all-linear"], None, ["q_proj"], ["mlp.up_proj"], ["layers.1.mlp.up_proj"]])
def test_names_of_modules_mean_those_of_the_language_model(make_trainer, family, names):
    """Prevents: adapters on the audio tower, which get no gradient and cannot be exported."""
    arguments = ModelArguments(model_name_or_path="student", use_peft=True, lora_target_modules=names)
    trainer = make_trainer(peft_config=load_peft_config(arguments, family), max_steps=1)
    adapted = trained(trainer)
    assert adapted
    assert all(".language_model.layers." in name for name in adapted)
    trainer.train()
    updated = [p for n, p in trainer.model.named_parameters() if "lora_B" in n]
    assert all(p.abs().max() > 0 for p in updated)


def test_the_seven_names_are_the_family_s_own_pattern(make_trainer, family, student):
    """Prevents: a list of names that trains other layers than the default."""
    default, named = (
        trained(make_trainer(model=copy.deepcopy(student), peft_config=LoraConfig(target_modules=pattern)))
        for pattern in (family.lora_target_modules, confine_target_modules(SEVEN, family))
    )
    assert default == named


def test_adapters_of_the_embedding_are_refused(make_trainer):
    """Prevents: an adapter that trains and cannot be exported."""
    with pytest.raises(ValueError, match=r"would be trained.*embed_tokens"):
        make_trainer(peft_config=LoraConfig(target_modules=r".*language_model\.embed_tokens"))


@pytest.mark.parametrize("pattern", [r".*q_proj", r".*audio_tower.*q_proj", r".*\.fc1"])
def test_a_pattern_that_reaches_the_audio_tower_is_refused(make_trainer, pattern):
    """Prevents: tensors that stay as they were for a whole night: 12 of 12 got no gradient."""
    with pytest.raises(ValueError, match=r"outside of the language model.s layers would be trained.*audio_tower"):
        make_trainer(peft_config=LoraConfig(target_modules=pattern))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save .* is refused"),
        ({"modules_to_save": ["audio_tower.proj"]}, "modules_to_save .* is refused"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices .* is refused"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' is refused"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora' is refused"),
        ({"bias": "all"}, "bias 'all' is refused"),
        ({"lora_bias": True}, "lora_bias True is refused"),
        ({"inference_mode": True}, "inference_mode is refused"),
        ({"eva_config": EvaConfig()}, "eva_config is refused"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication .* is refused"),
    ],
)
def test_what_an_export_would_lose_is_refused_before_training(make_trainer, family, config, message):
    """Prevents: an adapter whose exports answer otherwise than it did in training, without a word."""
    with pytest.raises(ValueError, match=message):
        make_trainer(peft_config=LoraConfig(target_modules=family.lora_target_modules, **config))


def test_other_methods_than_lora_are_refused(make_trainer):
    """Prevents: an adapter that neither plan nor export knows."""
    with pytest.raises(ValueError, match="peft_type IA3 is refused"):
        make_trainer(peft_config=IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
