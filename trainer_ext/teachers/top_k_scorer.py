"""A teacher in memory that writes down what it thinks, for `data_builders.soft_targets.cache`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_builders.schema import SoftTarget
from trainer_ext.loss.alignment import gather_response_states, pad_rows
from trainer_ext.loss.distillation import Projection
from trainer_ext.teachers.live import LiveTeacher

CHUNK_TOKENS = 256


class TopKScorer:
    """A `LiveTeacher`, which nothing else is beside: load it whole, or wherever it fits.

    Args:
        vocab_size: over how many of its rows the softmax is taken, those that the student has too.
        k: ids kept a token.
        temperatures: for which the mass of all other ids is kept.
    """

    def __init__(
        self, teacher: LiveTeacher, vocab_size: int, k: int, temperatures: list[float]
    ) -> None:
        self.teacher = teacher
        self.head = teacher.head[:vocab_size]
        self.k, self.temperatures = k, temperatures

    @torch.no_grad()
    def score(self, readings: list[Any]) -> list[SoftTarget]:
        """What it thinks of every reading's response, given its prompt (`prompt_ids`, `response_ids`)."""
        batch = pad_rows(
            [reading.prompt_ids for reading in readings],
            [reading.response_ids for reading in readings],
            pad_id=0,
            padding_side="right",
        )
        batch = {name: tensor.to(self.head.device) for name, tensor in batch.items()}
        hidden = self.teacher.read(batch["input_ids"], batch["attention_mask"])
        states = gather_response_states(hidden, batch["labels"])
        logits = Projection(self.head, states, torch.float32, min(CHUNK_TOKENS, len(states)))
        parts = [
            keep_top_k(
                logits.project(slice(start, start + CHUNK_TOKENS)), self.k, self.temperatures
            )
            for start in range(0, len(states), CHUNK_TOKENS)
        ]
        whole = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        ends = np.cumsum([len(reading.response_ids) for reading in readings])[:-1]
        return [SoftTarget(*rows) for rows in zip(*(np.split(a, ends) for a in whole), strict=True)]


def keep_top_k(logits: Tensor, k: int, temperatures: list[float]) -> SoftTarget:
    """The k likeliest ids of logits (T, V) with their log-probabilities, and the log-mass of the rest."""
    log_probs = logits.log_softmax(dim=-1)
    kept, ids = log_probs.topk(k)
    tails = []
    for temperature in temperatures:
        scaled = log_probs / temperature
        norm = scaled.logsumexp(dim=-1)
        tails.append(scaled.scatter_(1, ids, -torch.inf).logsumexp(dim=-1) - norm)
    return SoftTarget(ids.cpu().numpy(), kept.cpu().numpy(), torch.stack(tails, 1).cpu().numpy())
