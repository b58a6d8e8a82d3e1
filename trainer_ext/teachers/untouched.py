"""The untrained student inside the trained one: adapters switched off, no second model in memory."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from trainer_ext.students.distill_forward import HiddenStatesRequest


class UntouchedStudent:
    """A PEFT student without its adapters.

    Args:
        wanted_by: the setting that needs it, for the error message.
        instead: the setting that does not.

    Raises:
        ValueError: the student has no adapters to switch off.
    """

    def __init__(self, student: nn.Module, wanted_by: str, instead: str) -> None:
        if not isinstance(student, PeftModel):
            raise ValueError(
                f"{wanted_by} needs the student with its adapters switched off, and this student has none: set "
                f"use_peft, or {instead}"
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
