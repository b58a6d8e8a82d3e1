"""Values of a saved adapter, and how far they move a model's logits."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor


@dataclass(frozen=True)
class WeightReport:
    """Values of a saved adapter.

    Attributes:
        zero_b: the lora_B that are zero everywhere, as before training.
        all_b: the number of all.
        others: keys that are neither lora_A nor lora_B: magnitudes, whole modules.
        not_finite: keys with NaN or infinite values.
    """

    zero_b: list[str]
    all_b: int
    others: list[str]
    not_finite: list[str]

    @property
    def is_untrained(self) -> bool:
        """Tell whether the weights are as before training."""
        return self.all_b > 0 and len(self.zero_b) == self.all_b and not self.others


def inspect_weights(tensors: Mapping[str, Tensor]) -> WeightReport:
    """Look at every value of an adapter."""
    b = [key for key in tensors if "lora_B" in key or "lora_embedding_B" in key]
    return WeightReport(
        zero_b=[key for key in b if not bool(tensors[key].float().any())],
        all_b=len(b),
        others=[key for key in tensors if "lora_A" not in key and "lora_embedding_A" not in key and key not in b],
        not_finite=[key for key, tensor in tensors.items() if not bool(tensor.float().isfinite().all())],
    )


@dataclass(frozen=True)
class Effect:
    """Distance of the logits with the adapter from those without it, on one prompt.

    Attributes:
        kl: of the untouched model from the adapted one, nats per token.
        largest: change of a logit.
        changed: tokens whose likeliest successor is another one.
        tokens: of the prompt.
    """

    kl: float
    largest: float
    changed: int
    tokens: int


@torch.no_grad()
def compare_logits(adapted: PeftModel, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Return a prompt's logits (T, V) with the adapter, and without it."""
    inputs = torch.tensor([ids], device=adapted.device)
    with_adapter = adapted(input_ids=inputs).logits[0]
    with adapted.disable_adapter():
        return with_adapter, adapted(input_ids=inputs).logits[0]


def measure_effect(adapted: PeftModel, ids: list[int]) -> Effect:
    """Measure how far the adapter moves a prompt's logits."""
    new, old = (logits.float() for logits in compare_logits(adapted, ids))
    return Effect(
        kl=float(mean_kl(old, new)),
        largest=float((new - old).abs().max()),
        changed=int((new.argmax(-1) != old.argmax(-1)).sum()),
        tokens=len(ids),
    )


def mean_kl(p: Tensor, q: Tensor) -> Tensor:
    """Return the mean KL(p || q) of logits (T, V)."""
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
