"""Planned memory at the start of a run, measured peak at the end."""

import resource
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_ext.memory.plan import WEIGHTS, MemoryPlan
from trainer_ext.memory.table import describe_lengths, show_plan


class MemoryCallback(TrainerCallback):
    """Prints the planned memory when training starts, and the measured peak beside it when it ends.

    Attributes:
        measured: bytes at the peak of training, set at its end: of the GPU, or of the process on a CPU.
    """

    def __init__(self, plan: MemoryPlan) -> None:
        self.plan = plan
        self.measured: int | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        reset_peak(args.device)
        if args.device.type != "cuda":
            # Interpreter, libraries, data and allocator caches: the process before training, less the models.
            models = sum(self.plan.parts.get(name, 0) for name in WEIGHTS)
            self.plan.parts["process"] = max(measure_now() - models, 0)
        if state.is_world_process_zero:
            print(describe_lengths(self.plan))
            show_plan(self.plan.parts)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.measured = measure_peak(args.device)
        if state.is_world_process_zero:
            show_plan(self.plan.parts, self.measured)


def reset_peak(device: torch.device) -> None:
    """Reset the peak, which loading and scoring have raised."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (refs := Path("/proc/self/clear_refs")).exists():
        refs.write_text("5")


def measure_peak(device: torch.device) -> int:
    """Return the peak in bytes: allocations and context of the GPU, or the resident set of the process."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        context = total - free - torch.cuda.memory_reserved(device)
        return torch.cuda.max_memory_allocated(device) + max(context, 0)
    if (peak := read_status("VmHWM")) is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_now() -> int:
    """Return the resident set of this process in bytes; 0 where the system does not report it."""
    return read_status("VmRSS") or 0


def read_status(name: str) -> int | None:
    """Return the bytes of an entry of /proc/self/status; None on other systems than Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
