"""Diagnosis of a PEFT adapter: whether its keys are the model's, what it changes, and what to do.

PEFT loads an adapter whose keys do not match with a warning, and leaves the layers untrained. Since transformers 5 the
modules of Qwen2.5-Omni have other names; recent versions of PEFT know the older ones of weights, but not those in a
regular expression of target modules.
"""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, cached_file

from data_builders.storage.atomic import atomic_folder
from trainer_ext.loading.adapter import find_gaps, find_unloaded
from trainer_ext.students.base import StudentFamily

PEFT_PREFIX = "base_model.model."
ADAPTER_CONFIG = "adapter_config.json"
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


def find_weights(name_or_path: str, revision: str | None = None) -> Path:
    """Return the adapter's safetensors file.

    Raises:
        ValueError: there is none; names a pickle that is there in its place.
    """
    file = find_file(name_or_path, SAFETENSORS_WEIGHTS_NAME, revision)
    if file is not None:
        return file
    if find_file(name_or_path, WEIGHTS_NAME, revision) is not None:
        raise ValueError(
            f"{name_or_path} has {WEIGHTS_NAME}, a pickle, which can run any code when it is loaded: refused. Ask its "
            f"author for {SAFETENSORS_WEIGHTS_NAME}"
        )
    if find_file(name_or_path, ADAPTER_CONFIG, revision) is None and find_file(name_or_path, CONFIG_NAME, revision):
        raise ValueError(
            f"{name_or_path} is a full model, not an adapter: ask it by recipes/ask.py --model_name_or_path"
        )
    raise ValueError(f"{name_or_path} has no {SAFETENSORS_WEIGHTS_NAME}: it is no adapter, or was not saved completely")


def read_adapter_config(name_or_path: str, revision: str | None = None) -> PeftConfig:
    """Read an adapter's config.

    Raises:
        ValueError: it cannot be used; names it.
    """
    try:
        config = PeftConfig.from_pretrained(name_or_path, revision=revision)
        if config.is_prompt_learning or not isinstance(config.base_model_name_or_path, str | None):
            raise ValueError(f"its type is {config.peft_type}, its base {config.base_model_name_or_path!r}")
        if not isinstance(getattr(config, "r", 0), int | dict):
            raise ValueError(f"its rank is {config.r!r}")
        return config
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{ADAPTER_CONFIG} of {name_or_path} cannot be used ({' '.join(str(error).split())[:200]}): save the "
            "adapter again by PEFT's save_pretrained, or ask its author"
        ) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read all tensors of an adapter, without copies of the base's layers that PEFT may save beside them.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file.name} cannot be read ({file.stat().st_size} bytes: {error}): it is damaged, not downloaded "
            "completely, or a pointer of Git LFS. Download it again"
        ) from error
    return {key: tensor for key, tensor in tensors.items() if ".base_layer." not in key}


def find_file(name_or_path: str, name: str, revision: str | None = None) -> Path | None:
    """Return a file of a folder or of a Hub repository; None if there is none."""
    found = cached_file(
        name_or_path, name, revision=revision, _raise_exceptions_for_missing_entries=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def compare_keys(weights: Path, config: PeftConfig, family: StudentFamily) -> KeyReport:
    """Load an adapter onto the model without weights, and compare its keys with the model's."""
    saved = read_weights(weights)
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
    try:
        return get_peft_model(family.make_empty_model(family.config), copy.deepcopy(config))
    except (ValueError, TypeError, re.error):
        return None


def list_shapes(adapted: PeftModel) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of an adapter in memory."""
    state = get_peft_model_state_dict(adapted)
    return {key: tuple(value.shape) for key, value in state.items() if ".base_layer." not in key}


def with_targets(config: PeftConfig, modules: list[str]) -> PeftConfig:
    """Return the config with other target modules."""
    settings = {**config.to_dict(), "target_modules": modules}
    return PeftConfig.from_peft_type(**settings)


def rename_key(key: str, family: StudentFamily) -> str:
    """Return an adapter's key with the module's name in memory; as it is, if no layout of the family knows it."""
    module = key.removeprefix(PEFT_PREFIX)
    name = family.to_memory_name(module) or module
    return PEFT_PREFIX + name.replace(f"{ADAPTER_NAME}.", ".")


def module_of(key: str) -> str:
    """Return the module of an adapter's key."""
    return key.removeprefix(PEFT_PREFIX).partition(".lora_")[0]


def inspect_weights(weights: Path) -> WeightReport:
    """Look at every value of an adapter."""
    tensors = read_weights(weights)
    b = [key for key in tensors if "lora_B" in key or "lora_embedding_B" in key]
    return WeightReport(
        zero_b=[key for key in b if not bool(tensors[key].float().any())],
        all_b=len(b),
        others=[key for key in tensors if "lora_A" not in key and "lora_embedding_A" not in key and key not in b],
        not_finite=[key for key, tensor in tensors.items() if not bool(tensor.float().isfinite().all())],
    )


def write_renamed(weights: Path, config: PeftConfig, renamed: Mapping[str, str], folder: Path) -> None:
    """Write the adapter with other keys, in a new folder.

    Raises:
        ValueError: the folder exists.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already: name another folder")
    tensors = {renamed.get(key, key): tensor for key, tensor in read_weights(weights).items()}
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        with_targets(config, sorted({module_of(key) for key in tensors})).save_pretrained(str(temporary))


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
def measure_effect(adapted: Any, ids: list[int]) -> Effect:
    """Run a prompt with the adapter and without it."""
    inputs = torch.tensor([ids], device=adapted.device)
    new = adapted(input_ids=inputs).logits[0].float()
    with adapted.disable_adapter():
        old = adapted(input_ids=inputs).logits[0].float()
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


def read_versions(name_or_path: str, revision: str | None = None) -> str:
    """Return the versions that made an adapter, as far as its files say."""
    file = find_file(name_or_path, ADAPTER_CONFIG, revision)
    config = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    card = find_file(name_or_path, "README.md", revision)
    found = [f"peft {config['peft_version']}"] if config.get("peft_version") else []
    for line in [] if card is None else card.read_text(encoding="utf-8").splitlines():
        if line.startswith("| versions |"):
            found.append(line.strip("| ").partition("|")[2].strip())
        elif line.startswith("- ") and any(line[2:].lower().startswith(name) for name in ("peft ", "transformers")):
            found.append(line[2:])
    return ", ".join(dict.fromkeys(found)) or "not recorded"


def first(names: Iterable[str], shown: int = 2) -> str:
    """Return the first names, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
