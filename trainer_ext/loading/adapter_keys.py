"""Keys of a saved adapter beside those of a model, which PEFT compares by name, and leaves out with a warning at most.

Since transformers 5 the modules of Qwen2.5-Omni have other names; recent versions of PEFT know the older ones of
weights, but not those in a regular expression of target modules.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor

from trainer_ext.loading.adapter import find_gaps, find_unloaded
from trainer_ext.loading.adapter_files import ADAPTER_CONFIG, PEFT_PREFIX, module_of, with_targets
from trainer_ext.loading.adapter_patterns import check_patterns
from trainer_ext.students.base import StudentFamily

ADAPTER_NAME = ".default"  # in the keys of a state dict that was not saved by PEFT


@dataclass
class KeyReport:
    """Keys of a saved adapter beside those of the model.

    Attributes:
        matched: saved keys that are loaded.
        converted: saved key -> the name under which PEFT loads it, because it knows the older one.
        renamed: saved key -> the name under which it would be loaded, and is not.
        misshapen: key -> saved shape and the model's.
        unknown: saved keys of modules that the model does not have, or that the adapter's config does not target.
        missing: keys of the model that get no value, in parts of it that others do.
        idle: the number of those in other parts.
    """

    matched: list[str] = field(default_factory=list)
    converted: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    idle: int = 0

    @property
    def loaded(self) -> int:
        return len(self.matched) + len(self.converted)

    @property
    def saved(self) -> int:
        return self.loaded + len(self.renamed) + len(self.misshapen) + len(self.unknown)


def compare_keys(saved: Mapping[str, Tensor], config: PeftConfig, family: StudentFamily) -> KeyReport:
    """Load an adapter onto the model without weights, and compare its keys with the model's."""
    adapted = wrap(config, family)
    if adapted is None:  # the config targets modules of another layout; those that the keys name are looked for
        modules = sorted({module_of(rename_key(key, family)) for key in saved})
        known = wrap(with_targets(config, modules), family)
        wanted = {} if known is None else list_shapes(known)
        return sort_keys(saved, set(), wanted, family)
    wanted = list_shapes(adapted)
    report = sort_keys(saved, set(wanted), wanted, family)
    if report.misshapen:  # PEFT stops
        return report
    try:
        _, without = find_unloaded(adapted, saved)
    except RuntimeError:  # PEFT loads something else than layers of its own
        without = set(wanted) - set(saved)
    without &= wanted.keys()
    report = sort_keys(saved, wanted.keys() - without, wanted, family)
    report.missing = find_gaps(adapted, without)
    report.idle = len(without) - len(report.missing)
    return report


def sort_keys(
    saved: Mapping[str, Tensor], loaded: set[str], wanted: Mapping[str, tuple[int, ...]], family: StudentFamily
) -> KeyReport:
    """Put every saved key where it belongs.

    Args:
        loaded: the model's keys that have a value.
        wanted: the model's keys -> shape.
    """
    report = KeyReport()
    for key, value in saved.items():
        other = rename_key(key, family)
        name = key if key in wanted else other
        if name not in wanted:
            report.unknown.append(key)
        elif wanted[name] != tuple(value.shape):
            report.misshapen[key] = (tuple(value.shape), wanted[name])
        elif name not in loaded:
            report.renamed[key] = other
        elif key in wanted:
            report.matched.append(key)
        else:
            report.converted[key] = other
    return report


def describe_other_rank(config: PeftConfig, report: KeyReport) -> str | None:
    """Return what the config says of the rank, if the weights alone have another; None for other differences."""
    ranks = {key: saved[0 if "lora_A" in key else 1] for key, (saved, _) in report.misshapen.items() if len(saved) == 2}
    wanted = {key: here[0 if "lora_A" in key else 1] for key, (_, here) in report.misshapen.items() if len(here) == 2}
    if ranks and all(ranks[key] != wanted[key] for key in ranks):
        return f"{ADAPTER_CONFIG} says rank {config.r}, and the weights have {next(iter(ranks.values()))}"
    return None


def wrap(config: PeftConfig, family: StudentFamily) -> PeftModel | None:
    """Return the model without weights, adapted; None if the config targets none of its modules."""
    empty_model = family.make_empty_model(family.config)
    check_patterns(config, empty_model, str(config.base_model_name_or_path))
    try:
        return get_peft_model(empty_model, copy.deepcopy(config))
    except (ValueError, TypeError):
        return None


def list_shapes(adapted: PeftModel) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of an adapter in memory."""
    state = get_peft_model_state_dict(adapted)
    return {key: tuple(value.shape) for key, value in state.items() if ".base_layer." not in key}


def rename_key(key: str, family: StudentFamily) -> str:
    """Return an adapter's key with the module's name in memory; as it is, if no layout of the family knows it."""
    module = key.removeprefix(PEFT_PREFIX)
    name = family.to_memory_name(module) or module
    return PEFT_PREFIX + name.replace(f"{ADAPTER_NAME}.", ".")
