"""Load a student for LoRA, QLoRA or full fine-tuning, and see that what must stay whole did; load its adapters, and see
that they act.
"""

from collections import Counter
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import is_flash_attn_2_available
from trl import get_peft_config, get_quantization_config

from trainer_ext.arguments import ModelArguments


def load_student(arguments: ModelArguments, family: Any, shared: bool = False) -> PreTrainedModel:
    """The student's weights, quantized if asked; its frozen modules and its head never are.

    Args:
        shared: the processes will each take a part of it: it is read into the host's memory, not onto every card.

    Raises:
        RuntimeError: a module that must stay whole came out quantized.
    """
    assert arguments.model_name_or_path is not None
    quantization = make_quantization(arguments, family)
    device = PartialState().device
    straight_to_device = quantization is not None or (device.type == "cuda" and not shared)
    model = family.load_model(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation
        or choose_attention(device, read_dtype(arguments.dtype, family.config)),
        quantization_config=quantization,
        device_map={"": device} if straight_to_device else None,
    )
    if quantization is not None:
        check_not_quantized(model, quantization.llm_int8_skip_modules)
        keep_trainable_layout(model)
    return model


def choose_attention(device: torch.device, dtype: torch.dtype) -> str | None:
    """Flash attention where it is installed and can be used; None for the family's own choice."""
    can_flash = device.type == "cuda" and dtype.itemsize == 2 and is_flash_attn_2_available()
    return "flash_attention_2" if can_flash else None


def read_dtype(named: str | torch.dtype | None, config: PretrainedConfig) -> torch.dtype:
    """The precision that weights are loaded in; "auto" and nothing mean the checkpoint's own."""
    if isinstance(named, torch.dtype):
        return named
    if named in (None, "auto"):
        own = config.dtype or getattr(config.get_text_config(), "dtype", None)
        return own if isinstance(own, torch.dtype) else torch.bfloat16
    return getattr(torch, str(named))


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
    if config is None:
        return None
    if arguments.lora_target_modules is None:
        config.target_modules = family.lora_target_modules
    if arguments.model_revision != "main":  # the adapter is this revision's, and says so
        config.revision = arguments.model_revision
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
    """Class names of all linear layers, by the top-level part they belong to, to see what was quantized."""
    census: dict[str, Counter[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            part = name if "." not in name else ".".join(name.split(".")[:2])
            census.setdefault(part, Counter())[type(module).__name__] += 1
    return census


def check_not_quantized(model: PreTrainedModel, names: list[str]) -> None:
    """Refuse a model in which one of the named parts was quantized, or nothing at all was."""
    census = count_linear_classes(model)
    for name in names:
        if spoiled := {kind for kind in census.get(name, {}) if kind != "Linear"}:
            raise RuntimeError(
                f"{name} came out as {', '.join(sorted(spoiled))}; it must stay whole"
            )
    if all(kind == "Linear" for kinds in census.values() for kind in kinds):
        raise RuntimeError(
            "nothing was quantized: no linear layer of the language model changed its class"
        )
