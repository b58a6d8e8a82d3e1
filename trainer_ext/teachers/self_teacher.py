"""The student's own text branch with its adapters switched off as the teacher: no second model in memory."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer_ext.loss.teacher_targets import LiveTargets
from trainer_ext.students.base import StudentEncoder
from trainer_ext.teachers.prompts import StudentPromptEncoder
from trainer_ext.teachers.untouched import UntouchedStudent


class SelfTeacher:
    """The untrained student, reading the written question.

    Ultravox and CORD (arXiv 2601.16547) teach speech this way. It does not restore knowledge that the
    student has lost.
    """

    kind = "self"

    def __init__(self, student: StudentEncoder) -> None:
        self.encoder = StudentPromptEncoder(student)
        self.student: UntouchedStudent | None = None

    def describe(self) -> dict[str, Any]:
        return {}  # the student's own weights are part of a run's identity

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """Keep a reference to the student.

        Raises:
            ValueError: the student has no adapters to switch off.
        """
        instead = "teacher_kind 'model' with the text LLM to learn from"
        self.student = UntouchedStudent(student, "teacher_kind 'self'", instead)

    def targets(self, teacher_inputs: dict[str, Tensor], teacher_index: Tensor) -> LiveTargets:
        assert self.student is not None
        inputs = {name: teacher_inputs[f"teacher_{name}"] for name in ("input_ids", "attention_mask")}
        states = self.student.hidden_states(inputs, teacher_inputs["teacher_labels"])
        return LiveTargets(teacher_index, states, lm_head_weight=None)
