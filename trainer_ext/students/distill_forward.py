"""The loss inside the model's own forward, so that whatever wraps the model (DDP, FSDP2, ZeRO-3, PEFT) sees the head.

`model(**inputs, distill=DistillRequest(...))` returns a `DistillOutput` instead of logits; every other call is the
model's own forward. The idea is TRL's fused head (trl/trainer/utils.py, `add_fused_lm_head`).

A batch comes padded and goes through the model packed, one row of all its tokens: a question is several times shorter
in writing than by voice, and padding would be a third of the work.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from trl.trainer.utils import maybe_gather_lm_head_ctx

from trainer_ext.loss.alignment import gather_response_labels, gather_response_states
from trainer_ext.loss.distillation import LossParts, distillation_loss
from trainer_ext.loss.teacher_targets import Objective, TeacherTargets


class DistillRequest:
    """What one forward is asked to score, and its answer in full.

    Not a dataclass: FSDP2 casts the tensors in a dataclass to the run's precision on their way in, and those of an
    output on their way out. A teacher's signal and the parts of a loss in bfloat16 would be worth little.

    Args:
        labels: (B, T).
        teacher: its `rows` in the order of the N response tokens of `labels`.

    Attributes:
        parts: set by the forward.
    """

    def __init__(
        self, labels: Tensor, teacher: TeacherTargets | None, objective: Objective
    ) -> None:
        self.labels = labels
        self.teacher = teacher
        self.objective = objective
        self.parts: LossParts | None = None


@dataclass
class HiddenStatesRequest:
    """What one forward is asked to remember: the states that predict the response tokens."""

    labels: Tensor  # (B, T)


@dataclass
class DistillOutput(ModelOutput):
    """What carries the gradient out, in the shape that wrappers of models pass on (which wants defaults)."""

    total: Tensor = None  # type: ignore[assignment]  # scalar, summed over the N response tokens


@dataclass
class HiddenStatesOutput(ModelOutput):
    """The answer to a `HiddenStatesRequest`."""

    states: Tensor = None  # type: ignore[assignment]  # (N, H)


def install_distill_forward(
    model: PreTrainedModel, pack: Callable[[Tensor, Tensor], dict[str, Any]]
) -> None:
    """Teach `model.forward` the argument `distill`; `model` is the base model, not its PEFT wrapper.

    The head is read as a weight: adapters of its own would stay untrained, and TRL's trainer refuses them.

    Args:
        pack: `input_ids` and `attention_mask` (B, T) to what the model takes for their S tokens in one row.
    """
    original_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        *args: Any, distill: DistillRequest | HiddenStatesRequest | None = None, **kwargs: Any
    ) -> Any:
        if distill is None:
            return original_forward(*args, **kwargs)
        input_ids, attention_mask = kwargs.pop("input_ids"), kwargs.pop("attention_mask")
        packed = pack(input_ids, attention_mask)
        hidden = model.base_model(*args, **packed, **kwargs, use_cache=False).last_hidden_state
        # A row's first token is never a response's, so that none is predicted by the row before: (1, S, H) -> (N, H).
        labels = distill.labels[attention_mask.bool()][None]  # (1, S)
        states = gather_response_states(hidden, labels)
        if isinstance(distill, HiddenStatesRequest):
            return HiddenStatesOutput(states=states)
        head = model.get_output_embeddings().weight  # looked up here: FSDP and PEFT replace it
        with maybe_gather_lm_head_ctx(head):
            distill.parts = distillation_loss(
                states,
                gather_head(head, states.dtype) if isinstance(head, DTensor) else head,
                gather_response_labels(labels),
                distill.teacher,
                distill.objective,
            )
        return DistillOutput(total=distill.parts.total)

    model.forward = forward


def gather_head(head: DTensor, dtype: torch.dtype) -> Tensor:
    """All of a head that FSDP2 sharded on its own, in the precision of the states that it is multiplied with.

    Its gradient is averaged over the processes, as FSDP's are. Left to its default, it would be taken for equal on all
    processes, and each would keep its own tokens'. Cast before it is gathered, half of it has to travel.
    """
    part: Any = head.to(dtype)
    return part.full_tensor(grad_placements=[Partial("avg")] * head.device_mesh.ndim)
