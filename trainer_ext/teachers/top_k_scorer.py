"""A teacher in memory that computes soft targets, for `data_builders.soft_targets.cache`."""

import numpy as np
import torch
from torch import Tensor

from data_builders.chat import TeacherInput
from data_builders.schema import SoftTarget
from trainer_ext.loss.alignment import gather_response_states, pad_rows
from trainer_ext.loss.distillation import Projection
from trainer_ext.teachers.live import LiveTeacher

CHUNK_TOKENS = 256


class TopKScorer:
    """Scores responses with a `LiveTeacher` that has the device to itself.

    Args:
        vocab_size: rows of the head that the softmax is taken over, those that the student has too.
        k: kept ids per token.
        temperatures: temperatures to store the mass of all other ids for.
    """

    def __init__(self, teacher: LiveTeacher, vocab_size: int, k: int, temperatures: list[float]) -> None:
        self.teacher = teacher
        self.lm_head_weight = teacher.lm_head_weight[:vocab_size]
        self.k, self.temperatures = k, temperatures

    @torch.no_grad()
    def score(self, inputs: list[TeacherInput]) -> list[SoftTarget]:
        """Return the soft targets of each response, given its prompt."""
        batch = pad_rows(
            [teacher_input.prompt_ids for teacher_input in inputs],
            [teacher_input.response_ids for teacher_input in inputs],
            pad_id=0,
        )
        batch = {name: tensor.to(self.lm_head_weight.device) for name, tensor in batch.items()}
        hidden = self.teacher.forward(batch["input_ids"], batch["attention_mask"])
        hidden_states = gather_response_states(hidden, batch["labels"])
        chunk_tokens = min(CHUNK_TOKENS, len(hidden_states))
        transform = self.teacher.transform
        projection = Projection(self.lm_head_weight, hidden_states, torch.float32, chunk_tokens, transform)
        chunks = [
            keep_top_k(projection.project(slice(start, start + CHUNK_TOKENS)), self.k, self.temperatures)
            for start in range(0, len(hidden_states), CHUNK_TOKENS)
        ]
        arrays = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
        ends = np.cumsum([len(teacher_input.response_ids) for teacher_input in inputs])[:-1]
        return [SoftTarget(*rows) for rows in zip(*(np.split(a, ends) for a in arrays), strict=True)]


def keep_top_k(logits: Tensor, k: int, temperatures: list[float]) -> SoftTarget:
    """Return the k likeliest ids of logits (T, V), their log-probabilities, and the log mass of the rest."""
    log_probs = logits.log_softmax(dim=-1)
    kept, ids = log_probs.topk(k)
    tails = []
    for temperature in temperatures:
        scaled = log_probs / temperature
        norm = scaled.logsumexp(dim=-1)
        tails.append(scaled.scatter_(1, ids, -torch.inf).logsumexp(dim=-1) - norm)
    return SoftTarget(ids.cpu().numpy(), kept.cpu().numpy(), torch.stack(tails, 1).cpu().numpy())
