"""Trained weights, one at a time: base tensor in, trained tensor out.

Adapter and full fine-tune have one interface, so that an export never holds more than one tensor.
"""

from typing import Protocol

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.utils import cached_file

from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles
from trainer_ext.loading.adapter import check_keys
from trainer_ext.students.base import StudentFamily

ADAPTER_CONFIG = "adapter_config.json"


class TrainedWeights(Protocol):
    """The weights that training could change, by their names in memory."""

    names: set[str]

    def apply(self, name: str, base: Tensor) -> Tensor:
        """Return the trained weight in the precision of the base's."""
        ...


class MergedAdapter:
    """A LoRA adapter added to base weights by PEFT itself (rank patterns, rsLoRA, DoRA), in float32.

    It is attached to an empty model. Trained over a 4-bit base, it is merged into the unquantized base weights.

    Raises:
        ValueError: its keys are not this model's, or it trains biases, which are not merged here.
    """

    def __init__(self, name_or_path: str, family: StudentFamily, revision: str | None = None) -> None:
        config = PeftConfig.from_pretrained(name_or_path, revision=revision)
        if config.bias != "none" or config.lora_bias:
            raise ValueError(
                f"{name_or_path} trains biases (bias {config.bias!r}, lora_bias {config.lora_bias}), which an export "
                "would lose: merge it in memory by PEFT's merge_and_unload"
            )
        empty_model = family.make_empty_model(family.config)
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

    @torch.no_grad()
    def apply(self, name: str, base: Tensor) -> Tensor:
        if name in self.saved_modules:
            return self.saved_modules[name].to(base.dtype)
        layer = self.lora_layers[name]
        placeholder = layer.base_layer.weight
        layer.base_layer.weight = nn.Parameter(base.float(), requires_grad=False)
        layer.merge(safe_merge=True)
        merged = layer.base_layer.weight.data.to(base.dtype)
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
        return trained.to(base.dtype)


def load_trained(name_or_path: str, family: StudentFamily, revision: str | None = None) -> TrainedWeights:
    """Load a trained student from an adapter or from a full fine-tune."""
    kind = MergedAdapter if is_adapter(name_or_path, revision) else FineTuned
    return kind(name_or_path, family, revision)


def is_adapter(name_or_path: str, revision: str | None = None) -> bool:
    """Tell whether a folder or a Hub repository is a PEFT adapter."""
    found = cached_file(name_or_path, ADAPTER_CONFIG, revision=revision, _raise_exceptions_for_missing_entries=False)
    return found is not None


def read_base_name(name_or_path: str, revision: str | None = None) -> tuple[str | None, str | None]:
    """Return name and revision of an adapter's base model; None twice for a full fine-tune."""
    if not is_adapter(name_or_path, revision):
        return None, None
    config = PeftConfig.from_pretrained(name_or_path, revision=revision)
    return config.base_model_name_or_path, config.revision
