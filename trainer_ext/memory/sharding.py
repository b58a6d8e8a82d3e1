"""Read from an accelerate config which weights, gradients and optimizer states are sharded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from trainer_ext.students.base import StudentArchitecture


@dataclass(frozen=True)
class Sharding:
    """Number of processes, and which memory is divided among them."""

    processes: int = 1
    shards_weights: bool = False
    shards_gradients: bool = False
    shards_optimizer: bool = False
    # Weights are bfloat16, their float32 masters are kept with the optimizer's states (DeepSpeed).
    keeps_masters_apart: bool = False
    offloads_optimizer: bool = False

    @property
    def casts_weights(self) -> bool:
        """Layers use bfloat16 copies of their weights instead of autocast."""
        return self.shards_weights or self.keeps_masters_apart

    def weights(self, size: int) -> int:
        """Return the bytes that stay on a GPU, of so many bytes of weights."""
        return size // self.processes if self.shards_weights else size

    def gradients(self, size: int) -> int:
        """Return the bytes of gradients on a GPU; DDP keeps a second copy in its buckets."""
        if self.shards_gradients:
            return size // self.processes
        return size if self.processes == 1 else 2 * size

    def optimizer(self, size: int) -> int:
        """Return the bytes of optimizer states on a GPU."""
        if self.offloads_optimizer:
            return 0
        return size // self.processes if self.shards_optimizer else size

    def gathered(self, empty_model: nn.Module, family: StudentArchitecture, weight_bytes: int) -> int:
        """Return the bytes of weights that are gathered at a time: the root group, and two layers (one prefetched)."""
        if not self.shards_weights:
            return 0
        layers: Any = empty_model.get_submodule(f"{family.language_module}.layers")
        in_layers = sum(parameter.numel() for parameter in layers.parameters())
        root = sum(parameter.numel() for parameter in empty_model.parameters()) - in_layers
        return weight_bytes * (root + 2 * in_layers // len(layers))


ONE_PROCESS = Sharding()


def from_fsdp(processes: int) -> Sharding:
    """Return FSDP's sharding: weights, gradients and optimizer states."""
    return Sharding(processes, True, True, True)


def from_zero_stage(processes: int, stage: int, offloads_optimizer: bool = False) -> Sharding:
    """Return DeepSpeed's sharding: optimizer states from stage 1, gradients from 2, weights from 3."""
    return Sharding(
        processes,
        shards_weights=stage >= 3,
        shards_gradients=stage >= 2,
        shards_optimizer=stage >= 1,
        keeps_masters_apart=True,
        offloads_optimizer=offloads_optimizer,
    )


def read_sharding(accelerate_config: Path) -> Sharding:
    """Read the sharding from a config of `accelerate launch`.

    Raises:
        ValueError: an unknown `distributed_type`.
    """
    config = yaml.safe_load(accelerate_config.read_text(encoding="utf-8"))
    processes = int(config.get("num_processes", 1))
    kind = str(config.get("distributed_type", "NO")).upper()
    if kind in ("NO", "MULTI_GPU", "MULTI_CPU"):
        return Sharding(processes)
    if kind == "FSDP":
        return from_fsdp(processes)
    if kind == "DEEPSPEED":
        zero = config.get("deepspeed_config", {})
        offloads = zero.get("offload_optimizer_device", "none") != "none"
        return from_zero_stage(processes, int(zero.get("zero_stage", 0)), offloads)
    raise ValueError(f"{accelerate_config}: distributed_type {kind} is not supported by the plan")
