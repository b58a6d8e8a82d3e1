"""What every kind of teacher offers, in two halves.

The reader works beside the data: it looks at every row before training and puts what the teacher needs into a batch,
in the data loader's processes. The teacher itself turns that, on the device, into one `TeacherTargets`.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer_ext.loss.teacher_targets import TeacherTargets


class Reader(Protocol):
    """What a teacher reads of a row."""

    def check_row(self, row: dict[str, Any], response: str, student_ids: list[int]) -> None:
        """Refuse a row whose response this teacher could not be compared on; ValueError names the row.

        Args:
            row: with its id, question and system prompt.
            response: the one the run trains on, and `student_ids`, its tokens.
        """
        ...

    def encode(
        self, rows: list[dict[str, Any]], responses: list[list[int]], padding_side: str
    ) -> dict[str, Tensor]:
        """Tensors for a batch of questions, under keys that start with `teacher_`; responses are token ids."""
        ...


class Teacher(Protocol):
    """The device's half. Never trained, never changed by training."""

    kind: str

    @property
    def reader(self) -> Reader: ...

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """Settle beside the student that is about to be trained, at the run's temperature.

        Raises:
            ValueError: it cannot teach this student, or not at this temperature.
        """
        ...

    def signal(self, asked: dict[str, Tensor], rows: Tensor) -> TeacherTargets:
        """What it thinks of the M response tokens of a batch.

        Args:
            asked: what its reader put into the batch.
            rows: (N,), which of the M tokens each of the student's N is.
        """
        ...
