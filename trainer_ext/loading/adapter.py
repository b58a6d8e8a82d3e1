"""Load a saved adapter onto its base model, and refuse one that does not fit or has no effect."""

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import PreTrainedModel


def load_adapter(
    model: PreTrainedModel, name_or_path: str, revision: str | None = None
) -> PeftModel:
    """An adapter on its base model, in eval mode, after a look at whether it acts.

    Raises:
        ValueError: its keys are not this model's, or it changes no logit. PEFT would load the one with a warning and
            the other without, and the model would answer as if it had never been trained.
    """
    adapted = PeftModel.from_pretrained(model, name_or_path, revision=revision).eval()
    check_keys(adapted, name_or_path, revision)
    check_adapter_has_effect(adapted, name_or_path)
    return adapted


def check_keys(adapted: PeftModel, name_or_path: str, revision: str | None = None) -> None:
    """Refuse a saved adapter whose keys are not those of the adapter in memory, naming them."""
    saved = set(load_peft_weights(name_or_path, device="cpu", revision=revision))
    wanted = set(get_peft_model_state_dict(adapted))
    strangers, missing = sorted(saved - wanted), sorted(wanted - saved)
    if strangers or missing:
        raise ValueError(
            f"the adapter {name_or_path} does not fit this model, and would be left untrained in part or whole: "
            f"{describe_keys('it brings', strangers)}{describe_keys('it lacks', missing)}An adapter made for another "
            "library, another version of transformers or the full model has to be renamed (recipes/export_omni.py does)"
        )


def describe_keys(what: str, keys: list[str], shown: int = 3) -> str:
    """The first of some keys and the number of others, as a clause; nothing for none."""
    if not keys:
        return ""
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return f"{what} {', '.join(keys[:shown])}{more}; "


@torch.no_grad()
def check_adapter_has_effect(adapted: PeftModel, name_or_path: str) -> None:
    """Refuse an adapter with which the model says what it says without."""
    ids = torch.arange(1, 9, device=adapted.device)[None]
    with_it = adapted(input_ids=ids).logits
    with adapted.disable_adapter():
        without = adapted(input_ids=ids).logits
    if torch.equal(with_it, without):
        names = sorted(get_peft_model_state_dict(adapted))
        raise ValueError(
            f"the adapter {name_or_path} changes nothing: with it and without it the logits are the same. Its weights "
            f"are as before training ({describe_keys('all of', names).rstrip('; ')})"
        )
