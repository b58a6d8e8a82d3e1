"""Attention within each of the rows that are packed into one, by torch's causal kernel, row by row.

The usual block mask computes every pair of tokens, most of which are of different rows. This computes no such pair,
stores no mask and needs no other library; flash attention does the same in one call. Registered with transformers under
the name `PACKED_ATTENTION`; inputs that are not packed (generation) are computed as under "sdpa".
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_ATTENTION = "sdpa_packed"


def check_packable(config: PretrainedConfig) -> None:
    """Raise ValueError for a language model whose tokens do not attend to their whole row."""
    if getattr(config, "use_sliding_window", False) or "sliding_attention" in (
        getattr(config, "layer_types", None) or ()
    ):
        raise ValueError(
            "use_sliding_window is on in the student's config: packed rows are computed with full attention, so "
            "training would see other states than generation. Set it to false; published Qwen2.5-Omni has it so"
        )


def packed_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute (1, heads, S, d), (1, key-value heads, S, d) twice -> (1, S, heads, d).

    Args:
        row_lengths: of the rows that the S tokens are made of, in their order; None for a batch that is not packed.
    """
    if row_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows = (tensor.split(row_lengths, dim=2) for tensor in (query, key, value))
    outputs = [
        sdpa_attention_forward(module, *row, None, **{**kwargs, "is_causal": True})[0]
        for row in zip(*rows, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


def packed_mask(**kwargs: Any) -> Tensor | None:
    """Return no mask for packed rows, which transformers detects by positions that restart; else the one of "sdpa"."""
    packed = kwargs["attention_mask"] is None and not kwargs.get("allow_is_causal_skip", True)
    if packed and kwargs["q_length"] == kwargs["kv_length"]:
        return None
    return sdpa_mask(**kwargs)


AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
AttentionMaskInterface.register(PACKED_ATTENTION, packed_mask)
