"""Loss parts per channel, averaged over response tokens between two logs."""

from collections.abc import Callable

import torch
from torch import Tensor

from data_builders.schema import CHANNELS
from trainer_ext.loss.distillation import LossParts

PARTS = ("ce", "kl", "token_accuracy", "entropy")


class ChannelMeter:
    """Sums loss parts per channel, on the device and in float64."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(CHANNELS), 1 + len(PARTS), dtype=torch.float64, device=device)

    def update(self, parts: LossParts, channel_index: Tensor) -> None:
        """Add the parts of N tokens to the sums of their channels (N,)."""
        correct = parts.correct.to(parts.ce.dtype)
        columns = [torch.ones_like(parts.ce), parts.ce, parts.kl, correct, parts.entropy]
        values = torch.stack(columns, dim=1).detach().to(self.sums.dtype)
        self.sums.index_add_(0, channel_index, values)

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
        self.sums = torch.zeros_like(self.sums)
        return means
