"""The student's own text branch with its adapters switched off as the teacher: no second model in memory."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from trainer_ext.loss.teacher_targets import LiveTargets
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.distill_forward import HiddenStatesRequest
from trainer_ext.teachers.prompts import StudentPromptEncoder


class SelfTeacher:
    """The untrained student, reading the written question.

    Ultravox and CORD (arXiv 2601.16547) teach speech this way. It does not restore knowledge that the
    student has lost.
    """

    kind = "self"

    def __init__(self, student: StudentEncoder) -> None:
        self.encoder = StudentPromptEncoder(student)
        self.student: Any = None

    def describe(self) -> dict[str, Any]:
        return {}  # the student's own weights are part of a run's identity

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """Keep a reference to the student.

        Raises:
            ValueError: the student has no adapters to switch off.
        """
        if not isinstance(student, PeftModel):
            raise ValueError(
                "teacher_kind 'self' is the student with its adapters switched off, and this student has none: set "
                "use_peft, or teacher_kind 'model' with the text LLM to learn from"
            )
        self.student = student

    @torch.no_grad()
    def targets(self, teacher_inputs: dict[str, Tensor], teacher_index: Tensor) -> LiveTargets:
        training = self.student.training
        self.student.eval()
        try:
            with self.student.disable_adapter():
                output = self.student(
                    input_ids=teacher_inputs["teacher_input_ids"],
                    attention_mask=teacher_inputs["teacher_attention_mask"],
                    distill=HiddenStatesRequest(teacher_inputs["teacher_labels"]),
                )
        finally:
            self.student.train(training)
        return LiveTargets(teacher_index, output.hidden_states, lm_head_weight=None)
