"""The loss inside the model's own forward, so that whatever wraps the model (DDP, PEFT, mixed precision) sees the head.

`model(**inputs, distill=DistillRequest(...))` returns a `DistillOutput` instead of logits; every other call is the
model's own forward. The idea is TRL's fused head (trl/trainer/utils.py, `add_fused_lm_head`).
"""

import functools
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from trainer_ext.alignment import gather_response_labels, gather_response_states
from trainer_ext.losses import TeacherSignal, distillation_loss


@dataclass
class DistillRequest:
    """What one forward is asked to score."""

    labels: Tensor  # (B, T)
    teacher: TeacherSignal | None  # for the N response tokens of `labels`, in row order
    kl_weight: float
    temperature: float


@dataclass
class DistillOutput(ModelOutput):
    """`losses.LossParts` in the shape that wrappers of models know how to pass on (which wants defaults)."""

    total: Tensor = None  # type: ignore[assignment]  # scalar, summed over the N response tokens
    ce: Tensor = None  # type: ignore[assignment]  # (N,)
    kl: Tensor = None  # type: ignore[assignment]  # (N,)
    correct: Tensor = None  # type: ignore[assignment]  # (N,)
    entropy: Tensor = None  # type: ignore[assignment]  # (N,)


def add_distill_forward(model: PreTrainedModel) -> None:
    """Teach `model.forward` the argument `distill`; `model` is the base model, not its PEFT wrapper."""
    original_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(*args: Any, distill: DistillRequest | None = None, **kwargs: Any) -> Any:
        if distill is None:
            return original_forward(*args, **kwargs)
        hidden = model.base_model(*args, **kwargs, use_cache=False).last_hidden_state  # (B, T, H)
        parts = distillation_loss(
            gather_response_states(hidden, distill.labels),
            model.get_output_embeddings().weight,
            gather_response_labels(distill.labels),
            distill.teacher,
            kl_weight=distill.kl_weight,
            temperature=distill.temperature,
        )
        return DistillOutput(**vars(parts))

    model.forward = forward
