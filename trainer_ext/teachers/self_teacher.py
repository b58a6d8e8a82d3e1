"""The student's own text branch, its adapters switched off, as the teacher: no second model in memory."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from trainer_ext.loss.teacher_targets import LiveTargets
from trainer_ext.students.distill_forward import HiddenStatesRequest
from trainer_ext.teachers.prompts import StudentPromptEncoder


class SelfTeacher:
    """What the student thought of the written question before it was trained.

    Ultravox and CORD (arXiv 2601.16547) teach speech this way; what the student has forgotten it cannot teach.
    """

    kind = "self"

    def __init__(self, family: Any) -> None:
        self.reader = StudentPromptEncoder(family)
        self.student: Any = None

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """
        Raises:
            ValueError: there is nothing to switch off.
        """
        if not isinstance(student, PeftModel):
            raise ValueError(
                "teacher_kind 'self' is the student with its adapters switched off, and this student has none: set "
                "use_peft, or teacher_kind 'model' with the text LLM to learn from"
            )
        if student.get_output_embeddings().weight.requires_grad:
            raise ValueError(
                "teacher_kind 'self' reads with the student's head, which this run trains too "
                "(modules_to_save): leave the head frozen"
            )
        self.student = student

    @torch.no_grad()
    def signal(self, asked: dict[str, Tensor], rows: Tensor) -> LiveTargets:
        training = self.student.training
        self.student.eval()
        try:
            with self.student.disable_adapter():
                states = self.student(
                    input_ids=asked["teacher_input_ids"],
                    attention_mask=asked["teacher_attention_mask"],
                    distill=HiddenStatesRequest(asked["teacher_labels"]),
                ).states
        finally:
            self.student.train(training)
        return LiveTargets(rows, states, head=None)
