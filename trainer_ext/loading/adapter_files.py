"""Files of a saved adapter, read without running any code of theirs, and written with other names."""

import json
from collections.abc import Mapping
from pathlib import Path

from peft import PeftConfig
from peft.utils import CONFIG_NAME as ADAPTER_CONFIG
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME

from data_builders.pretrained import naming
from data_builders.storage.atomic import atomic_folder
from trainer_ext.checkpoints.safetensors_files import find_file

PEFT_PREFIX = "base_model.model."


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
    with naming(f"{file} ({file.stat().st_size} bytes)"):
        tensors = load_file(file)
    return {key: tensor for key, tensor in tensors.items() if ".base_layer." not in key}


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


def with_targets(config: PeftConfig, modules: list[str]) -> PeftConfig:
    """Return the config with other target modules."""
    settings = {**config.to_dict(), "target_modules": modules}
    return PeftConfig.from_peft_type(**settings)


def module_of(key: str) -> str:
    """Return the module of an adapter's key."""
    return key.removeprefix(PEFT_PREFIX).partition(".lora_")[0]


def write_renamed(weights: Mapping[str, Tensor], config: PeftConfig, renamed: Mapping[str, str], folder: Path) -> None:
    """Write the adapter with other keys, in a new folder.

    Raises:
        ValueError: the folder exists.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already: name another folder")
    tensors = {renamed.get(key, key): tensor for key, tensor in weights.items()}
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        with_targets(config, sorted({module_of(key) for key in tensors})).save_pretrained(str(temporary))
