"""What training made of a model, weight by weight: base tensor in, trained tensor out, one at a time.

An adapter or a full fine-tune, behind one interface, so that an export never holds more than a shard.
"""

from typing import Any, Protocol

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.utils import cached_file

from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles
from trainer_ext.loading.adapter import check_keys
from trainer_ext.students.qwen2_5_omni_names import to_memory_name

ADAPTER_CONFIG = "adapter_config.json"


class TrainedWeights(Protocol):
    """Names are those of the model in memory."""

    names: set[str]  # of the weights that training could change

    def apply(self, name: str, base: Tensor) -> Tensor:
        """The trained weight in the precision of the base's."""
        ...


class MergedAdapter:
    """A LoRA adapter added to base weights as PEFT itself adds it (rank patterns, rsLoRA, DoRA), in float32.

    It hangs on a skeleton of the model whose weights take no memory. Trained over a 4-bit base, it is merged all the
    same into the whole weights that the base was quantized from.

    Raises:
        ValueError: its keys are not this model's, or it trains biases, which are not added here.
    """

    def __init__(self, name_or_path: str, family: Any, revision: str | None = None) -> None:
        config = PeftConfig.from_pretrained(name_or_path, revision=revision)
        if config.bias != "none" or config.lora_bias:
            raise ValueError(
                f"{name_or_path} trains biases (bias {config.bias!r}, lora_bias {config.lora_bias}), which an export "
                "would lose: merge it in memory by PEFT's merge_and_unload"
            )
        adapted = PeftModel.from_pretrained(
            family.make_empty_model(family.config), name_or_path, revision=revision
        )
        check_keys(adapted, name_or_path, revision)
        modules = dict(adapted.get_base_model().named_modules())
        self.layers = {
            f"{name}.weight": module
            for name, module in modules.items()
            if isinstance(module, LoraLayer)
        }
        self.whole = {
            f"{name}.{parameter}": value.detach()
            for name, module in modules.items()
            if isinstance(module, ModulesToSaveWrapper)
            for parameter, value in module.modules_to_save[
                module.active_adapters[0]
            ].named_parameters()
        }
        self.names = {*self.layers, *self.whole}

    @torch.no_grad()
    def apply(self, name: str, base: Tensor) -> Tensor:
        if name in self.whole:
            return self.whole[name].to(base.dtype)
        layer = self.layers[name]
        hollow = layer.base_layer.weight
        layer.base_layer.weight = nn.Parameter(base.float(), requires_grad=False)
        layer.merge(safe_merge=True)
        merged = layer.base_layer.weight.data.to(base.dtype)
        layer.base_layer.weight = hollow
        return merged


class FineTuned:
    """The weights of a full fine-tune, read from its checkpoint."""

    def __init__(self, name_or_path: str, revision: str | None = None) -> None:
        self.name_or_path = name_or_path
        self.shards = SafetensorsFiles.from_pretrained(name_or_path, revision)
        self.on_disk = {
            name: saved
            for saved in self.shards.file_of
            if (name := to_memory_name(saved)) is not None
        }
        self.names = set(self.on_disk)

    def apply(self, name: str, base: Tensor) -> Tensor:
        trained = self.shards.read(self.on_disk[name])
        if trained.shape != base.shape:
            raise ValueError(
                f"{self.name_or_path} is of another model than the base: its {name} is {tuple(trained.shape)}, the "
                f"base's {tuple(base.shape)}"
            )
        return trained.to(base.dtype)


def load_trained(name_or_path: str, family: Any, revision: str | None = None) -> TrainedWeights:
    """Adapter or full fine-tune, whichever it is."""
    if is_adapter(name_or_path, revision):
        return MergedAdapter(name_or_path, family, revision)
    return FineTuned(name_or_path, revision)


def is_adapter(name_or_path: str, revision: str | None = None) -> bool:
    """Whether a folder or a Hub repository is a PEFT adapter."""
    found = cached_file(
        name_or_path, ADAPTER_CONFIG, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return found is not None


def read_base_name(name_or_path: str, revision: str | None = None) -> tuple[str | None, str | None]:
    """Name and revision of the model that an adapter was trained on; nothing for a full fine-tune."""
    if not is_adapter(name_or_path, revision):
        return None, None
    config = PeftConfig.from_pretrained(name_or_path, revision=revision)
    return config.base_model_name_or_path, config.revision
