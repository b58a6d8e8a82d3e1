"""GPUs by name: memory and speed, as NVIDIA states them."""

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gpu:
    """Memory and speed of a GPU."""

    name: str
    memory_gib: float
    bf16_tflops: float | None = None  # dense tensor cores, float32 accumulation
    bandwidth_gb_s: float | None = None


# Whitepapers and data sheets: Ampere GA102, Ada (appendix A), Blackwell, A100, H100, L4.
GPUS = {
    "rtx3060": Gpu("RTX 3060", 12, 25.5, 360),
    "rtx3090": Gpu("RTX 3090", 24, 71, 936),
    "rtx4060ti": Gpu("RTX 4060 Ti 16 GB", 16, 44.1, 288),
    "rtx4080": Gpu("RTX 4080", 16, 97.5, 717),
    "rtx4090": Gpu("RTX 4090", 24, 165.2, 1008),
    "rtx5090": Gpu("RTX 5090", 32, 209.5, 1792),
    "l4": Gpu("L4", 24, 121, 300),
    "a100-40gb": Gpu("A100 40 GB", 40, 312, 1555),
    "a100-80gb": Gpu("A100 80 GB", 80, 312, 2039),
    "h100": Gpu("H100", 80, 989.4, 3350),
}
# Names as drivers report them: a laptop's RTX 4090 is another GPU.
DRIVER_NAMES = {
    "GeForce RTX 3060": "rtx3060",
    "GeForce RTX 3090": "rtx3090",
    "GeForce RTX 4060 Ti": "rtx4060ti",
    "GeForce RTX 4080": "rtx4080",
    "GeForce RTX 4090": "rtx4090",
    "GeForce RTX 5090": "rtx5090",
    "L4": "l4",
    "A100-SXM4-40GB": "a100-40gb",
    "A100-PCIE-40GB": "a100-40gb",
    "A100-SXM4-80GB": "a100-80gb",
    "H100 80GB HBM3": "h100",
}
# Driver and display take part of a GPU's memory: an RTX 4090 reports 23.6 of its 24 GiB.
USABLE_SHARE = 0.98


def find_gpu(name: str) -> Gpu:
    """Return a GPU of the table, or one with a known memory alone ("24GB").

    Raises:
        ValueError: the name is neither.
    """
    key = name.lower().replace(" ", "")
    if key in GPUS:
        return GPUS[key]
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)gi?b", key):
        return Gpu(f"{size[1]} GB", float(size[1]))
    raise ValueError(f"unknown GPU {name!r}: give its memory (24GB) or one of {', '.join(GPUS)}")


def find_present_gpu() -> Gpu | None:
    """Return the first GPU of this machine, with its speed if its name is in the table; None if there is none."""
    if not torch.cuda.is_available():
        return None
    present = torch.cuda.get_device_properties(0)
    known = GPUS.get(DRIVER_NAMES.get(present.name.removeprefix("NVIDIA "), ""))
    memory = present.total_memory / 2**30
    if known is None:
        return Gpu(present.name, memory)
    return Gpu(present.name, memory, known.bf16_tflops, known.bandwidth_gb_s)
