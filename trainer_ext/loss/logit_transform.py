"""The step between states times head and a teacher's softmax: a scale (Granite, Cohere) or a soft cap (Gemma)."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LogitTransform:
    """soft_cap * tanh(scale * logits / soft_cap); without a cap, scale * logits."""

    scale: float = 1.0
    soft_cap: float | None = None

    def apply_(self, logits: Tensor) -> Tensor:
        """Transform logits of any shape in place, and return them."""
        scale = self.scale if self.soft_cap is None else self.scale / self.soft_cap
        if scale != 1.0:
            logits.mul_(scale)
        return logits if self.soft_cap is None else logits.tanh_().mul_(self.soft_cap)


NO_TRANSFORM = LogitTransform()
