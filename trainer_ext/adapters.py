"""Load a student for LoRA, QLoRA or full fine-tuning, and see that what must stay whole did."""

from collections import Counter
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers import BitsAndBytesConfig, PreTrainedModel
from trl import get_peft_config, get_quantization_config

from trainer_ext.arguments import ModelArguments


def load_student(arguments: ModelArguments, family: Any) -> PreTrainedModel:
    """The student's weights, quantised if asked; its frozen modules and its head never are.

    Raises:
        RuntimeError: a module that must stay whole came out quantised.
    """
    assert arguments.model_name_or_path is not None
    quantization = make_quantization(arguments, family)
    model = family.load_model(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
        quantization_config=quantization,
        device_map=None if quantization is None else {"": PartialState().device},
    )
    if quantization is not None:
        check_whole(model, quantization.llm_int8_skip_modules)
        keep_trainable_layout(model)
    return model


def keep_trainable_layout(model: torch.nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights for inference.

    On CPUs with AVX512-BF16 the first forward in eval mode changes the layout for good, and training after it fails
    ("a view of a leaf Variable ... in-place", bitsandbytes/nn/modules.py, `Linear4bit.forward`).
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def load_peft_config(arguments: ModelArguments, family: Any) -> PeftConfig | None:
    """TRL's LoRA config, on the family's language model unless `lora_target_modules` says otherwise."""
    config = get_peft_config(arguments)
    if config is not None and arguments.lora_target_modules is None:
        config.target_modules = family.lora_target_modules
    return config


def make_quantization(arguments: ModelArguments, family: Any) -> BitsAndBytesConfig | None:
    """TRL's bitsandbytes config with the full names of what must stay whole.

    transformers matches a name to skip from the start of the module's name, so "audio_tower" alone protects nothing.
    """
    quantization = get_quantization_config(arguments)
    if quantization is not None:
        quantization.llm_int8_skip_modules = [*family.frozen_modules, family.head_module]
    return quantization


def count_linear_classes(model: torch.nn.Module) -> dict[str, Counter[str]]:
    """Class names of all linear layers, by the top-level part they belong to, to see what was quantised."""
    census: dict[str, Counter[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            part = name if "." not in name else ".".join(name.split(".")[:2])
            census.setdefault(part, Counter())[type(module).__name__] += 1
    return census


def check_whole(model: PreTrainedModel, names: list[str]) -> None:
    """Refuse a model in which one of the named parts was quantised, or nothing at all was."""
    census = count_linear_classes(model)
    for name in names:
        if spoiled := {kind for kind in census.get(name, {}) if kind != "Linear"}:
            raise RuntimeError(
                f"{name} came out as {', '.join(sorted(spoiled))}; it must stay whole"
            )
    if all(kind == "Linear" for kinds in census.values() for kind in kinds):
        raise RuntimeError(
            "nothing was quantised: no linear layer of the language model changed its class"
        )
