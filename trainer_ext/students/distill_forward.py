"""The loss inside the model's own forward, so that every wrapper (DDP, FSDP2, ZeRO-3, PEFT) sees the head.

`model(**inputs, distill=DistillRequest(...))` returns a `DistillOutput` instead of logits; every other call is the
model's own forward. The idea is TRL's fused head (trl/trainer/utils.py, `add_fused_lm_head`).

A batch arrives padded and goes through the model packed, as one row of all its tokens: a question is several times
shorter in writing than in speech, and padding would be a third of the work.
"""

import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from trl.trainer.utils import maybe_gather_lm_head_ctx

from trainer_ext.loss.alignment import gather_response_labels, gather_response_states
from trainer_ext.loss.distillation import LossParts, grouped_loss
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import TokenGroup


class DistillRequest:
    """The arguments of one loss, and its result in full.

    Not a dataclass: FSDP2 casts the tensors in a dataclass argument to the run's precision, and those of an output
    back. Teacher targets and loss parts in bfloat16 would lose their digits.

    Args:
        labels: (B, T).
        groups: divide the N response tokens of `labels` in their order.

    Attributes:
        parts: set by the forward.
    """

    def __init__(self, labels: Tensor, groups: Sequence[TokenGroup], objective: Objective) -> None:
        self.labels = labels
        self.groups = groups
        self.objective = objective
        self.parts: LossParts | None = None


@dataclass
class HiddenStatesRequest:
    """A request for the hidden states that predict the response tokens."""

    labels: Tensor  # (B, T)


@dataclass
class DistillOutput(ModelOutput):
    """Output with the summed loss. A ModelOutput, because DDP, FSDP and PEFT wrappers pass those through."""

    total: Tensor = None  # type: ignore[assignment]  # scalar, summed over the N response tokens


@dataclass
class HiddenStatesOutput(ModelOutput):
    """Output of a `HiddenStatesRequest`."""

    hidden_states: Tensor = None  # type: ignore[assignment]  # (N, H)


def install_distill_forward(
    model: PreTrainedModel, packed_inputs: Callable[[Tensor, list[int]], dict[str, Any]]
) -> None:
    """Add the argument `distill` to `model.forward`; `model` is the base model, not its PEFT wrapper.

    The head is read as a weight: adapters on it would stay untrained, and TRL's trainer refuses them.

    Args:
        packed_inputs: the family's arguments for rows packed into one (`StudentArchitecture.packed_inputs`).
    """
    original_forward = model.forward
    if isinstance(original_forward, types.MethodType) and original_forward.__self__ is model:
        original_forward = original_forward.__func__
    else:  # a wrapper's function, which knows its model
        original_forward = functools.partial(call_without_self, original_forward)

    @functools.wraps(type(model).forward)
    def forward(
        model: PreTrainedModel, *args: Any, distill: DistillRequest | HiddenStatesRequest | None = None, **kwargs: Any
    ) -> Any:
        if distill is None:
            return original_forward(model, *args, **kwargs)
        input_ids, mask = kwargs.pop("input_ids"), kwargs.pop("attention_mask").bool()
        positions = (mask.cumsum(dim=-1) - 1)[mask]  # (S,)
        packed = {"input_ids": input_ids[mask][None], **packed_inputs(positions, mask.sum(dim=-1).tolist())}
        hidden = model.base_model(*args, **packed, **kwargs, use_cache=False).last_hidden_state
        # A row's first token is never part of a response, so no label is predicted by the row before it.
        labels = distill.labels[mask][None]  # (1, S)
        hidden_states = gather_response_states(hidden, labels)  # (1, S, H) -> (N, H)
        if isinstance(distill, HiddenStatesRequest):
            return HiddenStatesOutput(hidden_states=hidden_states)
        head = model.get_output_embeddings().weight  # read here: FSDP and PEFT replace it
        with maybe_gather_lm_head_ctx(head):
            distill.parts = grouped_loss(
                hidden_states,
                gather_head(head, hidden_states.dtype) if isinstance(head, DTensor) else head,
                gather_response_labels(labels),
                distill.groups,
                distill.objective,
            )
        return DistillOutput(total=distill.parts.total)

    model.forward = types.MethodType(forward, model)  # a method, so that a deep copy computes with its own weights


def call_without_self(function: Callable[..., Any], _: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
    """Call a function that has replaced a method."""
    return function(*args, **kwargs)


def gather_head(head: DTensor, dtype: torch.dtype) -> Tensor:
    """Gather a head that FSDP2 sharded by itself, in the precision of the hidden states.

    Its gradient is averaged over processes, as FSDP's are; by default each process would keep the gradient of its own
    tokens. Cast before the gather, half as many bytes travel.
    """
    part: Any = head.to(dtype)
    return part.full_tensor(grad_placements=[Partial("avg")] * head.device_mesh.ndim)
