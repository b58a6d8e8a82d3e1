"""The untrained student inside the trained one: adapters switched off, no second model in memory."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from trainer_ext.students.distill_forward import HiddenStatesRequest


class UntouchedStudent:
    """A PEFT student without its adapters.

    Raises:
        ValueError: the student has no adapters to switch off.
    """

    def __init__(self, student: nn.Module, wanted_by: str) -> None:
        if not isinstance(student, PeftModel):
            raise ValueError(
                f"{wanted_by} needs the student with its adapters switched off, and this student has none: set "
                "use_peft, or teacher_kind 'model' with the text LLM to learn from"
            )
        self.student: Any = student

    @torch.no_grad()
    def hidden_states(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Return the states that predict the n response tokens of padded rows: (b, T) -> (n, H)."""
        training = self.student.training
        self.student.eval()
        try:
            with self.student.disable_adapter():
                return self.student(**inputs, distill=HiddenStatesRequest(labels)).hidden_states
        finally:
            self.student.train(training)
