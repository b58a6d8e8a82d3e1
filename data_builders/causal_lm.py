"""A text LLM in memory: it answers the questions of a data set, and it teaches. One loader for both."""

from typing import NamedTuple

import torch
from accelerate import PartialState
from transformers import BitsAndBytesConfig, PreTrainedModel

from data_builders.pretrained import load_causal_lm_weights

# Our device map beside those of accelerate: layers stay in host memory and are copied to the device one at a time.
OFFLOAD = "offload"


class TeacherSettings(NamedTuple):
    """The model to load, its precision and its place.

    Attributes:
        load_in_4bit: NF4 with double quantization by bitsandbytes; the head stays unquantized.
        device_map: None for this process's device; another device ("cuda:1", "cpu"); "auto" to spread the model over
            free devices; "offload" to keep it in host memory.
    """

    name_or_path: str
    revision: str = "main"
    dtype: str | torch.dtype | None = None
    load_in_4bit: bool = False
    device_map: str | None = None


def load_causal_lm(settings: TeacherSettings) -> PreTrainedModel:
    """Load a causal LM; one to be offloaded is left on the CPU."""
    device_map = settings.device_map or {"": PartialState().device}
    return load_causal_lm_weights(
        settings.name_or_path,
        revision=settings.revision,
        dtype=settings.dtype,
        quantization_config=quantize_to_nf4(settings.dtype) if settings.load_in_4bit else None,
        device_map={"": "cpu"} if device_map == OFFLOAD else device_map,
    )


def quantize_to_nf4(dtype: str | torch.dtype | None) -> BitsAndBytesConfig:
    """Return QLoRA's NF4 config (arXiv 2305.14314), with products in the model's own precision."""
    if dtype in (None, "auto"):
        dtype = torch.bfloat16
    compute = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
