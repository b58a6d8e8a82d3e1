"""Trained weights, one at a time: base tensor in, trained tensor out.

Adapter and full fine-tune have one interface, so that an export never holds more than one tensor.
"""

import re
from collections.abc import Iterable
from typing import Protocol

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles, find_file
from trainer_ext.loading.adapter import check_keys
from trainer_ext.loading.adapter_config import INITIALIZATIONS
from trainer_ext.loading.adapter_files import ADAPTER_CONFIG, find_weights, read_adapter_config
from trainer_ext.loading.adapter_patterns import check_patterns
from trainer_ext.students.base import StudentFamily

# Keys of LoRA and DoRA, and of whole modules, whose own names have no part of an adapter method in them.
MERGED_KEY = re.compile(r"\.(lora_A|lora_B|lora_magnitude_vector)\b|^(?!.*\.(lora_|token_adapter|trainable_tokens)).*$")


class TrainedWeights(Protocol):
    """The weights that training could change, by their names in memory."""

    names: set[str]

    def apply(self, name: str, base: Tensor) -> Tensor:
        """Return the trained weight, unrounded."""
        ...


class MergedAdapter:
    """A LoRA adapter added to base weights by PEFT itself (rank patterns, rsLoRA, DoRA), in float32.

    It is attached to an empty model. Trained over a 4-bit base, it is merged into the unquantized base weights.

    Raises:
        ValueError: its keys are not this model's, or it trains something that is not merged here.
    """

    def __init__(self, name_or_path: str, family: StudentFamily, revision: str | None = None) -> None:
        find_weights(name_or_path, revision)  # PEFT would load a pickle
        config = read_adapter_config(name_or_path, revision)
        refuse_unmerged(name_or_path, config)
        empty_model = family.make_empty_model(family.config)
        check_patterns(config, empty_model, name_or_path)
        tied = family.config.get_text_config().tie_word_embeddings
        if tied and config.modules_to_save:
            raise ValueError(
                f"{name_or_path} trains {', '.join(config.modules_to_save)} of a model whose head is its embedding: "
                "they no longer agree, and an export has one weight for both"
            )
        adapted = PeftModel.from_pretrained(empty_model, name_or_path, revision=revision)
        check_keys(adapted, name_or_path, revision)
        modules = dict(adapted.get_base_model().named_modules())
        self.lora_layers = {
            f"{name}.weight": module for name, module in modules.items() if isinstance(module, LoraLayer)
        }
        self.saved_modules = {
            f"{name}.{parameter}": value.detach()
            for name, module in modules.items()
            if isinstance(module, ModulesToSaveWrapper)
            for parameter, value in module.modules_to_save[module.active_adapters[0]].named_parameters()
        }
        self.names = {*self.lora_layers, *self.saved_modules}
        check_all_merged(name_or_path, get_peft_model_state_dict(adapted))

    @torch.no_grad()
    def apply(self, name: str, base: Tensor) -> Tensor:
        if name in self.saved_modules:
            return self.saved_modules[name]
        layer = self.lora_layers[name]
        placeholder = layer.base_layer.weight
        layer.base_layer.weight = nn.Parameter(base.float(), requires_grad=False)
        layer.merge(safe_merge=True)
        merged = layer.base_layer.weight.data
        layer.base_layer.weight = placeholder
        return merged


class FineTuned:
    """The weights of a full fine-tune, read from its checkpoint."""

    def __init__(self, name_or_path: str, family: StudentFamily, revision: str | None = None) -> None:
        self.name_or_path = name_or_path
        self.files = SafetensorsFiles.from_pretrained(name_or_path, revision)
        self.saved_name = {
            name: saved for saved in self.files.file_of if (name := family.to_memory_name(saved)) is not None
        }
        self.names = set(self.saved_name)

    def apply(self, name: str, base: Tensor) -> Tensor:
        trained = self.files.read(self.saved_name[name])
        if trained.shape != base.shape:
            raise ValueError(
                f"{self.name_or_path} is of another model than the base: its {name} is {tuple(trained.shape)}, the "
                f"base's {tuple(base.shape)}"
            )
        return trained


def refuse_unmerged(name_or_path: str, config: PeftConfig) -> None:
    """Raise ValueError for an adapter of which a merge would lose a part, or that fits changed base weights."""
    if config.peft_type != PeftType.LORA:
        raise ValueError(
            f"{name_or_path} is of type {config.peft_type.value}, and exports know LoRA: merge it in memory by PEFT's "
            "merge_and_unload"
        )
    if config.bias != "none" or config.lora_bias:
        raise ValueError(
            f"{name_or_path} trains biases (bias {config.bias!r}, lora_bias {config.lora_bias}), which an export "
            "would lose: merge it in memory by PEFT's merge_and_unload"
        )
    if config.trainable_token_indices:
        raise ValueError(
            f"{name_or_path} trains single tokens (trainable_token_indices), which an export would lose: merge it in "
            "memory by PEFT's merge_and_unload"
        )
    if config.init_lora_weights not in INITIALIZATIONS:
        raise ValueError(
            f"{name_or_path} was initialized by {config.init_lora_weights}, which changes the base weights: convert it "
            "to plain LoRA by PEFT (path_initial_model_for_weight_conversion of save_pretrained)"
        )


def check_all_merged(name_or_path: str, keys: Iterable[str]) -> None:
    """Raise ValueError if a saved key is neither LoRA's nor a whole module's."""
    if unknown := [key for key in keys if not MERGED_KEY.search(key)]:
        raise ValueError(f"{name_or_path} has weights that an export would lose: {', '.join(unknown[:3])}")


def load_trained(name_or_path: str, family: StudentFamily, revision: str | None = None) -> TrainedWeights:
    """Load a trained student from an adapter or from a full fine-tune."""
    kind = MergedAdapter if is_adapter(name_or_path, revision) else FineTuned
    return kind(name_or_path, family, revision)


def is_adapter(name_or_path: str, revision: str | None = None) -> bool:
    """Tell whether a folder or a Hub repository is a PEFT adapter."""
    return find_file(name_or_path, ADAPTER_CONFIG, revision) is not None


def read_base_name(name_or_path: str, revision: str | None = None) -> tuple[str | None, str | None]:
    """Return name and revision of an adapter's base model; None twice for a full fine-tune."""
    if not is_adapter(name_or_path, revision):
        return None, None
    config = read_adapter_config(name_or_path, revision)
    return config.base_model_name_or_path, config.revision


def find_base(
    adapter: str, adapter_revision: str | None, base: str | None, base_revision: str | None
) -> tuple[str, str | None]:
    """Return name and revision of the model that an adapter is put on: the given one, or the one that it names.

    Raises:
        ValueError: neither is known.
    """
    named, named_revision = read_base_name(adapter, adapter_revision)
    name = base or named
    if name is None:
        raise ValueError(f"{adapter} names no base model: name it by --model_name_or_path")
    return name, base_revision or (named_revision if name == named else None)
