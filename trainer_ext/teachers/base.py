"""Teachers as two Protocols.

The encoder runs beside the data, in data loader workers: it validates every row before training and adds the teacher's
inputs to a batch. The teacher runs on the device and turns these inputs into `TeacherTargets`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer_ext.loss.teacher_targets import TeacherTargets
from trainer_ext.students.base import StudentEncoder


class TeacherEncoder(Protocol):
    """The half in the data loader; it is pickled with the collator."""

    def check_student(self, student: StudentEncoder) -> None:
        """Raise ValueError if the student's tokens are not those of the teacher."""
        ...

    def check_row(self, row: Mapping[str, Any], response: str, student_ids: list[int]) -> None:
        """Check that the teacher can be compared on this response.

        Args:
            row: with id, question and system prompt.
            student_ids: the response in the student's tokens.

        Raises:
            RowRejected: it cannot; the run leaves the row out.
            ValueError: the teacher does not fit the run, which then stops; names the row.
        """
        ...

    def encode(self, rows: list[dict[str, Any]], responses: list[list[int]], padding_side: str) -> dict[str, Tensor]:
        """Return the teacher's inputs for a batch of questions; keys start with `teacher_`, responses are token ids."""
        ...


class Teacher(Protocol):
    """The half on the device. Training never changes it."""

    kind: str

    @property
    def encoder(self) -> TeacherEncoder: ...

    def describe(self) -> dict[str, Any]:
        """Return what its targets depend on, as JSON, by key: a run resumes with the same teacher alone."""
        ...

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """Prepare to teach a student on its device, at the run's temperature.

        Raises:
            ValueError: this student cannot be taught, or not at this temperature.
        """
        ...

    def targets(self, teacher_inputs: dict[str, Tensor], teacher_index: Tensor) -> TeacherTargets:
        """Compute the targets of the M response tokens of a batch.

        Args:
            teacher_inputs: the encoder's part of the batch.
            teacher_index: (N,), the teacher's token of each of the student's N.
        """
        ...
