"""Load a student for LoRA, QLoRA or full fine-tuning, and verify that frozen parts stay unquantized."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import is_flash_attn_2_available
from trl import get_peft_config, get_quantization_config

from trainer_ext.arguments import ModelArguments
from trainer_ext.loading.adapter_config import check_peft_config, confine_target_modules
from trainer_ext.students.base import StudentArchitecture, StudentFamily


def load_student(arguments: ModelArguments, family: StudentFamily, sharded: bool = False) -> PreTrainedModel:
    """Load the student's weights, quantized if asked; its frozen modules and its head never are.

    Args:
        sharded: the processes will each keep a part of it, so it is loaded into host memory, not onto every GPU.

    Raises:
        RuntimeError: a module that must stay unquantized came out quantized.
    """
    assert arguments.model_name_or_path is not None
    quantization = make_quantization(arguments, family)
    device = PartialState().device
    dtype = read_dtype(arguments.dtype, family.config)
    direct_to_device = quantization is not None or (device.type == "cuda" and not sharded)
    name = arguments.model_name_or_path
    if Path(name).is_dir():  # recorded in the adapter, which may be used from another folder
        name = str(Path(name).resolve())
    model = family.load_model(
        name,
        revision=arguments.model_revision,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation or choose_attention(device, dtype),
        quantization_config=quantization,
        device_map={"": device} if direct_to_device else None,
    )
    if quantization is not None:
        check_not_quantized(model, quantization.llm_int8_skip_modules)
        keep_trainable_layout(model)
    return model


def inference_options(
    family: StudentFamily, dtype: str, revision: str | None, load_in_4bit: bool = False
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a student that only answers, on this process's device.

    Args:
        dtype: precision of the weights; "auto" is the checkpoint's own.
    """
    device, weights = PartialState().device, read_dtype(dtype, family.config)
    quantization = None
    if load_in_4bit:
        named = str(weights).removeprefix("torch.")
        nf4 = ModelArguments("student", dtype=named, load_in_4bit=True, use_peft=True, use_bnb_nested_quant=True)
        quantization = make_quantization(nf4, family)
    return {
        "revision": revision,
        "dtype": weights,
        "attn_implementation": choose_attention(device, weights),
        "quantization_config": quantization,
        "device_map": {"": device},
    }


def choose_attention(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return flash attention where it is installed and works; None for the family's own choice."""
    can_flash = device.type == "cuda" and dtype.itemsize == 2 and is_flash_attn_2_available()
    return "flash_attention_2" if can_flash else None


def read_dtype(named: str | torch.dtype | None, config: PretrainedConfig) -> torch.dtype:
    """Return the precision of loaded weights; "auto" and None mean the checkpoint's own."""
    if isinstance(named, torch.dtype):
        return named
    if named in (None, "auto"):
        own = config.dtype or getattr(config.get_text_config(), "dtype", None)
        return own if isinstance(own, torch.dtype) else torch.bfloat16
    return getattr(torch, str(named))


def keep_trainable_layout(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for inference.

    On CPUs with AVX512-BF16 the first forward in eval mode changes the layout for good, and training after it fails
    ("a view of a leaf Variable ... in-place", bitsandbytes/nn/modules.py, `Linear4bit.forward`).
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def load_peft_config(arguments: ModelArguments, family: StudentArchitecture) -> PeftConfig | None:
    """Return TRL's LoRA config, on the family's language model; bare names in `lora_target_modules` mean those in it.

    Raises:
        ValueError: a setting that would be trained, planned or exported wrongly.
    """
    config = get_peft_config(arguments)
    if config is None:
        return None
    config.target_modules = confine_target_modules(arguments.lora_target_modules, family)
    check_peft_config(config)
    if arguments.model_revision != "main":  # recorded in the adapter, which belongs to this revision
        config.revision = arguments.model_revision
    return config


def make_quantization(arguments: ModelArguments, family: StudentArchitecture) -> BitsAndBytesConfig | None:
    """Return TRL's bitsandbytes config with the full names of the modules that stay unquantized.

    transformers matches a skipped name from the start of the module's name, so "audio_tower" alone protects nothing.
    """
    quantization = get_quantization_config(arguments)
    if quantization is not None:
        quantization.llm_int8_skip_modules = [*family.frozen_modules, family.head_module]
    return quantization


def count_linear_classes(model: torch.nn.Module) -> dict[str, Counter[str]]:
    """Count the class names of all linear layers by top-level part, which shows what was quantized."""
    census: dict[str, Counter[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            part = name if "." not in name else ".".join(name.split(".")[:2])
            census.setdefault(part, Counter())[type(module).__name__] += 1
    return census


def check_not_quantized(model: PreTrainedModel, names: list[str]) -> None:
    """Raise RuntimeError if one of the named parts was quantized, or nothing at all was."""
    census = count_linear_classes(model)
    for name in names:
        inside = (module for path, module in model.named_modules() if f"{path}.".startswith(f"{name}."))
        linear = {type(module).__name__ for module in inside if isinstance(module, torch.nn.Linear)}
        if quantized := linear - {"Linear"}:
            raise RuntimeError(f"{name} came out as {', '.join(sorted(quantized))}; it must stay unquantized")
    if all(kind == "Linear" for kinds in census.values() for kind in kinds):
        raise RuntimeError("nothing was quantized: no linear layer of the language model changed its class")
