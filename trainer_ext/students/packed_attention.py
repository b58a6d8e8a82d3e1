"""Attention within each of the rows that are packed into one, by torch's own causal kernel, row by row.

The usual way makes a mask of all tokens by all tokens and computes every pair of it, of which most are of unlike rows.
This one computes no pair for nothing, keeps no mask and needs no further library; flash attention does the same in one
call. Registered with transformers under the name `ROW_ATTENTION`; what is not packed (generation) goes as under "sdpa".
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROW_ATTENTION = "sdpa_rows"


def attend_rows(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: list[int] | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """(1, heads, S, d), (1, key-value heads, S, d) twice -> (1, S, heads, d).

    Args:
        row_lengths: of the rows that S tokens are made of, in their order; None for a batch that is not packed.
    """
    if row_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    rows = (tensor.split(row_lengths, dim=2) for tensor in (query, key, value))
    attended = [
        sdpa_attention_forward(module, *row, None, **{**how, "is_causal": True})[0]
        for row in zip(*rows, strict=True)
    ]
    return torch.cat(attended, dim=1), None


def mask_rows(**how: Any) -> Tensor | None:
    """No mask for packed rows, which transformers tells by positions that start anew; else that of "sdpa"."""
    packed = how["attention_mask"] is None and not how.get("allow_is_causal_skip", True)
    if packed and how["q_length"] == how["kv_length"]:
        return None
    return sdpa_mask(**how)


AttentionInterface.register(ROW_ATTENTION, attend_rows)
AttentionMaskInterface.register(ROW_ATTENTION, mask_rows)
