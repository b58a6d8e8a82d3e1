"""A collated batch, divided among the model, the teacher and the loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_builders.schema import CHANNELS, SOUND_CHANNEL
from trainer_ext.loss.alignment import pair_with_teacher
from trainer_ext.loss.distillation import LossParts


@dataclass
class PairBatch:
    """B student rows, T tokens of a row, Q questions, N response tokens."""

    model_inputs: dict[str, Tensor]
    teacher_inputs: dict[str, Tensor]
    labels: Tensor  # (B, T)
    channel_index: Tensor  # (B,), indices into CHANNELS
    question_index: Tensor  # (B,), the question of each student row
    response_lengths: Tensor  # (Q,), 0 for questions that the teacher does not read
    example_ids: list[str]  # Q

    @classmethod
    def split(cls, inputs: dict[str, Any]) -> "PairBatch":
        """Divide what `PairCollator` returned; the input is left as it is."""
        batch = dict(inputs)
        labels, example_ids = batch.pop("labels"), batch.pop("example_ids")
        channel_index, question_index, response_lengths = (
            torch.tensor(batch.pop(key), device=labels.device)
            for key in ("channel_index", "question_index", "response_lengths")
        )
        teacher_inputs = {key: batch.pop(key) for key in list(batch) if key.startswith("teacher_")}
        return cls(batch, teacher_inputs, labels, channel_index, question_index, response_lengths, example_ids)

    def select_sounds(self) -> tuple[dict[str, Tensor], Tensor]:
        """Return model inputs and labels of the rows about sounds, which come last, as their clips do."""
        count = int((self.channel_index == CHANNELS.index(SOUND_CHANNEL)).sum())
        first = len(self.labels) - count
        return {name: value[-count:] for name, value in self.model_inputs.items()}, self.labels[first:]

    def teacher_index(self) -> Tensor:
        """Return the teacher's token of each of the student's response tokens, (N,)."""
        return pair_with_teacher(self.labels, self.response_lengths, self.question_index)

    def check_finite(self, parts: LossParts, rows: Tensor, step: int) -> None:
        """Raise FloatingPointError, naming step, channels and row ids, if the loss is not finite.

        Args:
            rows: (N,), the student row of each response token.
        """
        if torch.isfinite(parts.total):
            return
        bad = rows[~(torch.isfinite(parts.ce) & torch.isfinite(parts.kl))].unique().tolist()
        named = [
            f"{CHANNELS[self.channel_index[row]]} of row {self.example_ids[self.question_index[row]]}" for row in bad
        ]
        raise FloatingPointError(
            f"the loss is not finite in step {step}: {', '.join(named)}. The run stops before the weights change; "
            "check these rows' speech and answers, or lower the learning rate. The last complete checkpoint can be "
            "resumed from."
        )
