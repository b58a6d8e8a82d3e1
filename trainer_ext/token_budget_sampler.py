"""Micro-batches of similar rows with a bounded number of tokens, however many rows that are."""

from collections.abc import Callable, Iterator, Sequence

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler


class TokenBudgetSampler(BatchRebalanceSampler):
    """Yields one process's micro-batches of an epoch; all processes together see every row.

    The rows of a micro-batch are the same in every epoch, so that epochs have equally many; their order is the
    epoch's. A step is full whatever the clips' lengths, and packed, so that its time hardly varies.
    The Trainer passes transformers' sampler on as a batch sampler that divides the rows among processes itself, which
    is why this is one.

    Args:
        batches: of `fill_batches`, as many as processes and accumulation steps divide.
        epoch: returns the current epoch, from 0.
    """

    def __init__(
        self, batches: list[list[int]], processes: int, process: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self.batches, self.processes, self.process = batches, processes, process
        self.seed, self.current_epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.batches) // self.processes

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.current_epoch())
        order = torch.randperm(len(self.batches), generator=generator).tolist()
        return iter([self.batches[number] for number in order[self.process :: self.processes]])


def fill_batches(lengths: Sequence[int], max_tokens: int, multiple: int, seed: int) -> list[list[int]]:
    """Divide rows into batches of similar lengths.

    Args:
        lengths: tokens of each row, none above `max_tokens`.
        multiple: divides the number of batches; those of most rows are halved until it does, and where every row is
            a batch, the first ones come twice.
        seed: of the order among rows of the same length.
    """
    shuffled = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    batches: list[list[int]] = []
    room = 0
    for row in sorted(shuffled, key=lambda row: -lengths[row]):
        if lengths[row] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(row)
        room -= lengths[row]
    while len(batches) % multiple:
        largest = max(range(len(batches)), key=lambda number: len(batches[number]))
        rows = batches[largest]
        if len(rows) == 1:
            missing = -len(batches) % multiple
            return batches + [list(batches[number % len(batches)]) for number in range(missing)]
        batches[largest : largest + 1] = [rows[::2], rows[1::2]]
    return batches


def check_budget(lengths: Sequence[int], ids: Sequence[str], max_tokens: int) -> None:
    """Raise ValueError for a row that no batch holds; names the longest one."""
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    if longest is not None and lengths[longest] > max_tokens:
        raise ValueError(
            f"row {ids[longest]}: it has {lengths[longest]} tokens in its channels together, more than "
            f"max_batch_tokens={max_tokens}: raise it, or lower max_length, which leaves long rows out"
        )
