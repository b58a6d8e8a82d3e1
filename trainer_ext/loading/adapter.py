"""Load a saved adapter onto its base model, and refuse one that does not fit or has no effect."""

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import PreTrainedModel


def load_adapter(model: PreTrainedModel, name_or_path: str, revision: str | None = None) -> PeftModel:
    """Load an adapter in eval mode.

    Raises:
        ValueError: its keys are not this model's, or it changes no logit. PEFT loads the first with a warning and the
            second without one, and the model would answer as if it had never been trained.
    """
    adapted = PeftModel.from_pretrained(model, name_or_path, revision=revision).eval()
    check_keys(adapted, name_or_path, revision)
    check_adapter_has_effect(adapted, name_or_path)
    return adapted


def check_keys(adapted: PeftModel, name_or_path: str, revision: str | None = None) -> None:
    """Raise ValueError if the keys of a saved adapter are not those of the adapter in memory."""
    saved = set(load_peft_weights(name_or_path, device="cpu", revision=revision))
    wanted = set(get_peft_model_state_dict(adapted))
    unexpected, missing = sorted(saved - wanted), sorted(wanted - saved)
    if unexpected or missing:
        raise ValueError(
            f"the adapter {name_or_path} does not fit this model, and would be left untrained in part or entirely: "
            f"{describe_keys('unexpected', unexpected)}{describe_keys('missing', missing)}An adapter made for another "
            "library, another version of transformers or the full model has to be renamed (recipes/export_omni.py)"
        )


def describe_keys(label: str, keys: list[str], shown: int = 3) -> str:
    """Return the first keys and the number of others as a clause; empty for no keys."""
    if not keys:
        return ""
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return f"{label} {', '.join(keys[:shown])}{more}; "


@torch.no_grad()
def check_adapter_has_effect(adapted: PeftModel, name_or_path: str) -> None:
    """Raise ValueError if the model's logits are the same with the adapter and without it."""
    ids = torch.arange(1, 9, device=adapted.device)[None]
    with_adapter = adapted(input_ids=ids).logits
    with adapted.disable_adapter():
        without_adapter = adapted(input_ids=ids).logits
    if torch.equal(with_adapter, without_adapter):
        keys = sorted(get_peft_model_state_dict(adapted))
        raise ValueError(
            f"the adapter {name_or_path} changes nothing: with it and without it the logits are the same. Its weights "
            f"are as before training ({describe_keys('all of', keys).rstrip('; ')})"
        )
