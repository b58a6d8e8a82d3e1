"""Rows of similar length in one batch, in an order that depends on the seed and the epoch alone."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices


class LengthGroupedSampler(Sampler[int]):
    """Yields every row once an epoch, grouped by length.

    transformers' sampler of this name draws from the global random state. With dropout that state differs between
    processes, which then divide different orders among them, and a resumed epoch has another order than it began with.

    Args:
        lengths: tokens of each row.
        rows_per_group: rows of one update, over all accumulation steps.
        epoch: returns the current epoch, from 0.
    """

    def __init__(self, lengths: list[int], rows_per_group: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths, self.rows_per_group, self.seed, self.epoch = lengths, rows_per_group, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.rows_per_group, generator=generator))


class ResumableRebalanceSampler(BatchRebalanceSampler):
    """transformers' sampler of micro-batches of equal cost, in the order of the current epoch.

    The base class is told its epoch by the data loader, which does not reach it where a resumed epoch skips batches.

    Args:
        sampler: as the Trainer makes it.
        epoch: returns the current epoch, from 0.
    """

    def __init__(self, sampler: BatchRebalanceSampler, seed: int, epoch: Callable[[], int]) -> None:
        self.__dict__.update(sampler.__dict__)
        self.seed = seed  # the Trainer leaves the default
        self.current_epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        self.set_epoch(self.current_epoch())
        return super().__iter__()
