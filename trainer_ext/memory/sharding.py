"""What of a model every process holds whole, and what in parts, by accelerate's config."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn


@dataclass(frozen=True)
class Sharding:
    """How many processes share what, and in which precision they compute."""

    processes: int = 1
    shards_weights: bool = False
    shards_gradients: bool = False
    shards_optimizer: bool = False
    # Weights are kept in bfloat16, their float32 masters with the optimizer's states (DeepSpeed).
    keeps_masters_apart: bool = False
    offloads_optimizer: bool = False

    @property
    def casts_weights(self) -> bool:
        """Layers are computed from bfloat16 copies of their weights, not under autocast."""
        return self.shards_weights or self.keeps_masters_apart

    def weights(self, size: int) -> int:
        """Bytes of so many bytes of weights that stay on a card."""
        return size // self.processes if self.shards_weights else size

    def gradients(self, size: int) -> int:
        """Likewise of gradients; DDP keeps a second copy in its buckets."""
        if self.shards_gradients:
            return size // self.processes
        return size if self.processes == 1 else 2 * size

    def optimizer(self, size: int) -> int:
        """Likewise of the optimizer's states."""
        if self.offloads_optimizer:
            return 0
        return size // self.processes if self.shards_optimizer else size

    def gathered(self, skeleton: nn.Module, family: Any, weight_bytes: int) -> int:
        """Weights that are whole for a while all the same: the root group, and two layers (one is fetched ahead)."""
        if not self.shards_weights:
            return 0
        layers: Any = skeleton.get_submodule(f"{family.language_module}.layers")
        in_layers = sum(parameter.numel() for parameter in layers.parameters())
        root = sum(parameter.numel() for parameter in skeleton.parameters()) - in_layers
        return weight_bytes * (root + 2 * in_layers // len(layers))


ONE_PROCESS = Sharding()


def from_fsdp(processes: int) -> Sharding:
    """All of it is shared."""
    return Sharding(processes, True, True, True)


def from_zero_stage(processes: int, stage: int, offloads_optimizer: bool = False) -> Sharding:
    """DeepSpeed: optimizer states are shared, then gradients too, then weights too."""
    return Sharding(
        processes, stage >= 3, stage >= 2, stage >= 1,
        keeps_masters_apart=True, offloads_optimizer=offloads_optimizer,
    )  # fmt: skip


def read_sharding(accelerate_config: Path) -> Sharding:
    """From a config of `accelerate launch`.

    Raises:
        ValueError: it describes a way of sharing that is not known here.
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
    raise ValueError(f"{accelerate_config}: distributed_type {kind} is not known to this plan")
