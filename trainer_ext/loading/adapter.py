"""Load a saved adapter onto its base model, and refuse one that does not fit or has no effect."""

from collections.abc import Mapping
from typing import NoReturn

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import PreTrainedModel

from data_builders.hub.ids import split_revision
from data_builders.pretrained import naming
from trainer_ext.loading.adapter_config import INITIALIZATIONS
from trainer_ext.loading.adapter_files import PEFT_PREFIX, find_weights, read_adapter_config
from trainer_ext.loading.adapter_patterns import check_patterns
from trainer_ext.loading.adapter_values import compare_logits, inspect_weights


def load_adapter(model: PreTrainedModel, name_or_path: str, revision: str | None = None) -> PeftModel:
    """Load an adapter in eval mode.

    Args:
        name_or_path: a folder, or a Hub id, which may name its revision: user/name@revision.

    Raises:
        ValueError: its keys are not this model's, or it changes no logit. PEFT loads the first with a warning and the
            second without one, and the model would answer as if it had never been trained.
    """
    adapted = load_fitting_adapter(model, name_or_path, revision)
    check_adapter_has_effect(adapted, name_or_path)
    return adapted


def load_fitting_adapter(model: PreTrainedModel, name_or_path: str, revision: str | None = None) -> PeftModel:
    """Load an adapter that may have no effect; otherwise as `load_adapter`."""
    name_or_path, revision = split_revision(name_or_path, revision)
    find_weights(name_or_path, revision)  # PEFT would load a pickle
    with naming(name_or_path):
        weights = load_peft_weights(name_or_path, device="cpu", revision=revision)
    if broken := inspect_weights(weights).not_finite:
        raise ValueError(
            f"the adapter {name_or_path} has NaN or infinite values: {describe_keys('', broken)}it is broken"
        )
    config = read_adapter_config(name_or_path, revision)
    check_can_be_turned_off(config, name_or_path)
    check_patterns(config, model, name_or_path)
    try:
        adapted = PeftModel.from_pretrained(model, name_or_path, revision=revision).eval()
    except Exception as error:  # whatever PEFT makes of other shapes, and of settings of a wrong type
        raise ValueError(
            f"the adapter {name_or_path} does not fit this model ({' '.join(str(error).split())[:300]}): `python "
            "recipes/doctor.py` says why"
        ) from error
    unexpected, without = find_unloaded(adapted, weights)
    missing = find_gaps(adapted, without)
    if unexpected or missing:
        raise_misfit(name_or_path, sorted(unexpected), missing)
    return adapted


def check_can_be_turned_off(config: PeftConfig, name_or_path: str) -> None:
    """Raise ValueError for an adapter that changes the base weights: without it the base would not be the base."""
    initialization = getattr(config, "init_lora_weights", True)
    if initialization not in INITIALIZATIONS:
        raise ValueError(
            f"{name_or_path} was initialized by {initialization}, which changes the base weights, so answers without "
            "the adapter would not be the base's: convert it to plain LoRA by PEFT "
            "(path_initial_model_for_weight_conversion of save_pretrained)"
        )
    if getattr(config, "bias", "none") != "none":
        raise ValueError(
            f"{name_or_path} trains biases of the base (bias {config.bias!r}), so answers without the adapter would "
            "not be the base's: merge it by PEFT's merge_and_unload, and ask the merged model"
        )


def check_keys(adapted: PeftModel, name_or_path: str, revision: str | None = None) -> None:
    """Raise ValueError if the keys of a saved adapter are not those of the adapter in memory."""
    find_weights(name_or_path, revision)
    saved = set(load_peft_weights(name_or_path, device="cpu", revision=revision))
    wanted = set(get_peft_model_state_dict(adapted))
    unexpected, missing = sorted(saved - wanted), sorted(wanted - saved)
    if unexpected or missing:
        raise_misfit(name_or_path, unexpected, missing)


def find_unloaded(adapted: PeftModel, weights: Mapping[str, Tensor]) -> tuple[set[str], set[str]]:
    """Load an adapter's weights; returns the keys that PEFT leaves out, and those of the model that get no value.

    PEFT knows some names of earlier versions of transformers.
    """
    result = set_peft_model_state_dict(adapted, dict(weights))
    unexpected = {key.replace(".default", "") for key in result.unexpected_keys}
    without = {key.replace(".default", "") for key in result.missing_keys}
    return unexpected, without & get_peft_model_state_dict(adapted).keys()


def find_gaps(adapted: PeftModel, without: set[str]) -> list[str]:
    """Return the keys without a value in the parts of the model where others have one.

    Layers of other parts are named by bare target modules such as "q_proj", and were never trained.
    """
    parts = {part_of(key) for key in get_peft_model_state_dict(adapted).keys() - without}
    return sorted(key for key in without if not parts or part_of(key) in parts)


def part_of(key: str) -> tuple[str, ...]:
    """Return the part of the model that a key of an adapter belongs to: ("model", "language_model")."""
    return tuple(key.removeprefix(PEFT_PREFIX).split(".")[:2])


def raise_misfit(name_or_path: str, unexpected: list[str], missing: list[str]) -> NoReturn:
    """Raise ValueError for an adapter whose keys are not the model's."""
    raise ValueError(
        f"the adapter {name_or_path} does not fit this model, and would be left untrained in part or entirely: "
        f"{describe_keys('unexpected', unexpected)}{describe_keys('missing', missing)}An adapter of another model, "
        "layout or version: `python recipes/doctor.py` says which, and what to do"
    )


def describe_keys(label: str, keys: list[str], shown: int = 3) -> str:
    """Return the first keys and the number of others as a clause; empty for no keys."""
    if not keys:
        return ""
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return f"{label} {', '.join(keys[:shown])}{more}; "


def check_adapter_has_effect(adapted: PeftModel, name_or_path: str) -> None:
    """Raise ValueError if the model's logits are the same with the adapter and without it."""
    if torch.equal(*compare_logits(adapted, list(range(1, 9)))):
        keys = sorted(get_peft_model_state_dict(adapted))
        raise ValueError(
            f"the adapter {name_or_path} changes nothing: on a written prompt, with it and without it, the logits are "
            f"the same ({describe_keys('all of', keys).rstrip('; ')})"
        )
