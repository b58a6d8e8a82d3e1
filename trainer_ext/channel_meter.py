"""Loss parts per channel, averaged over response tokens between two logs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from data_builders.schema import CHANNELS
from trainer_ext.loss.distillation import LossParts
from trainer_ext.loss.objective import Objective
from trainer_ext.pair_batch import PairBatch

PARTS = ("ce", "kl", "token_accuracy", "entropy")


class ChannelMeter:
    """Sums loss parts per channel, on the device and in float64."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(CHANNELS), 1 + len(PARTS), dtype=torch.float64, device=device)

    def update(self, parts: LossParts, channel_index: Tensor) -> None:
        """Add the parts of N tokens to the sums of their channels (N,)."""
        self.sums.index_add_(0, channel_index, stack_parts(parts).to(self.sums.dtype))

    def sum_by_question(self, parts: LossParts, batch: PairBatch, rows: Tensor) -> Tensor:
        """Return the sums of each of Q questions, (Q, channels, 1 + parts).

        Args:
            rows: (N,), the student row of each response token.
        """
        sums = self.sums.new_zeros(len(batch.example_ids) * len(CHANNELS), 1 + len(PARTS))
        cells = batch.question_index[rows] * len(CHANNELS) + batch.channel_index[rows]
        sums.index_add_(0, cells, stack_parts(parts).to(sums.dtype))
        return sums.view(-1, *self.sums.shape)

    def add(self, sums: Tensor) -> None:
        """Add the sums of questions, (Q, channels, 1 + parts)."""
        self.sums += sums.sum(dim=0)

    def mean_loss(self, objective: Objective) -> float:
        """Return the loss per response token of all channels; NaN without tokens."""
        tokens, ce, kl = self.sums.sum(dim=0)[:3].tolist()
        return (ce + objective.divergence_weight * kl) / tokens if tokens else math.nan

    def reset(self) -> None:
        """Start anew."""
        self.sums = torch.zeros_like(self.sums)

    def read_and_reset(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the means as `<channel>/<part>` for channels with tokens, and start anew.

        Args:
            reduce: sums a tensor over processes; all of them call this.
        """
        sums = reduce(self.sums)
        means = {
            f"{channel}/{name}": part / tokens
            for channel, (tokens, *parts) in zip(CHANNELS, sums.tolist(), strict=True)
            if tokens
            for name, part in zip(PARTS, parts, strict=True)
        }
        self.reset()
        return means


def stack_parts(parts: LossParts) -> Tensor:
    """Return a one and the loss parts of N tokens, (N, 1 + parts), without their graph."""
    correct = parts.correct.to(parts.ce.dtype)
    return torch.stack([torch.ones_like(parts.ce), parts.ce, parts.kl, correct, parts.entropy], dim=1).detach()
