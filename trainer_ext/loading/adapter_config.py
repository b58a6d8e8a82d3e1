"""LoRA configs that training, memory plan and exports treat right; all others are refused before training."""

import dataclasses
import re

from peft import LoraConfig, PeftConfig, PeftType
from torch import nn

from trainer_ext.students.base import StudentArchitecture
from trainer_ext.supported_arguments import default_of, names

SUPPORTED = names(
    """
    r target_modules exclude_modules lora_alpha lora_dropout fan_in_fan_out use_rslora use_dora layers_to_transform
    layers_pattern rank_pattern alpha_pattern task_type peft_type peft_version auto_mapping base_model_name_or_path
    revision
    """
)
INITIALIZATIONS = (True, False, "gaussian", "orthogonal")  # they leave the base weights as they are


def confine_target_modules(target_modules: str | list[str] | set[str] | None, family: StudentArchitecture) -> str:
    """Return target modules as a regex on the language model; bare names such as "q_proj" match other parts too."""
    if target_modules is None or target_modules == "all-linear":
        return family.lora_target_modules
    if isinstance(target_modules, str):
        if not re.fullmatch(r"\w+(\.\w+)*", target_modules):
            return target_modules  # a regex
        target_modules = [target_modules]
    alternatives = "|".join(re.escape(name) for name in sorted(target_modules))
    return rf"(?:.*\.)?{re.escape(family.language_module)}\.(?:.*\.)?(?:{alternatives})"


def check_peft_config(config: PeftConfig) -> None:
    """Raise ValueError for a config that would be trained, planned or exported wrongly; names its settings."""
    if not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA:
        raise ValueError(
            f"peft_type {config.peft_type.value} is refused: memory plan and exports know LoRA (rsLoRA and DoRA too)"
        )
    refused = {
        "modules_to_save": (config.modules_to_save, "a float32 copy of the module would be trained beside a bfloat16 "
                            "model; train LoRA on the language model's layers, or all of it (use_peft: false)"),
        "trainable_token_indices": (config.trainable_token_indices, "distillation needs no new tokens"),
        "target_parameters": (config.target_parameters, "no student family has parameters outside of modules"),
        "bias": (config.bias if config.bias != "none" else None, "biases are not merged by the exports"),
        "lora_bias": (config.lora_bias, "biases are not merged by the exports"),
        "layer_replication": (config.layer_replication, "the model would have other layers than its base"),
        "alora_invocation_tokens": (config.alora_invocation_tokens, "the adapter would be off for a part of the row"),
        "init_lora_weights": (
            None if config.init_lora_weights in INITIALIZATIONS else str(config.init_lora_weights),
            "it changes the base weights, so the adapter would not fit the published base; "
            f"known are {', '.join(map(str, INITIALIZATIONS))}",
        ),
    }  # fmt: skip
    given = [f"{name} {value!r} is refused: {why}" for name, (value, why) in refused.items() if value]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in {*SUPPORTED, *refused} and value and value != default_of(field):
            given.append(f"{field.name} is refused: training, memory plan or exports do not know it")
    if given:
        raise ValueError("; ".join(given))


def check_trained_parameters(model: nn.Module, family: StudentArchitecture, adapted: bool) -> None:
    """Raise ValueError if parameters outside of the language model and the head would be trained: none gets a gradient.

    Their output is detached (the audio tower's), or they are not in memory. Adapters belong to the layers alone: an
    export does not know them elsewhere.
    """
    whole = [f"{family.language_module}.", f"{family.head_module}."]
    inside = [f"{family.language_module}.layers."] if adapted else whole
    outside = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not any(f".{part}" in f".{name}" for part in inside)
    ]
    if outside:
        raise ValueError(
            f"{len(outside)} parameters outside of the language model's layers would be trained, and get no gradient "
            "there or no export: "
            f"{', '.join(outside[:3])}. Confine lora_target_modules to {family.language_module}, or leave it out"
        )
