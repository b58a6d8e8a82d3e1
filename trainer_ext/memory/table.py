"""The memory plan as a table, with the measured peak beside it, and a verdict."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from trainer_ext.memory.gpus import USABLE_SHARE, Gpu
from trainer_ext.memory.plan import MemoryPlan

GIB = 2**30


def show_plan(parts: Mapping[str, int], measured: int | None = None) -> None:
    """Print a plan's bytes by purpose, their sum, and the measured peak if there is one; in MiB for small plans."""
    total = sum(parts.values())
    unit, size, digits = ("GiB", GIB, 2) if total > 4 * GIB else ("MiB", 2**20, 1)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"memory of a process, {unit}", no_wrap=True)
    table.add_column("planned", justify="right")
    if measured is not None:
        table.add_column("measured", justify="right")
    for name, part in parts.items():
        table.add_row(name, f"{part / size:,.{digits}f}")
    table.add_section()
    peak = [] if measured is None else [f"{measured / size:,.{digits}f}"]
    table.add_row("peak", f"{total / size:,.{digits}f}", *peak)
    Console().print(table)


def describe_lengths(plan: MemoryPlan) -> str:
    """Describe the micro-batch of the plan."""
    lengths = plan.lengths
    return (
        f"questions per micro-batch {lengths.questions}: {lengths.tokens:,} tokens of the student, "
        f"{lengths.scored:,} of them scored"
    )


def fits(plan: MemoryPlan, gpu: Gpu) -> bool:
    """Tell whether the peak fits the usable memory."""
    return plan.total <= gpu.memory_gib * USABLE_SHARE * GIB


def describe_verdict(plan: MemoryPlan, gpu: Gpu) -> str:
    """Describe whether the plan fits the GPU, and by how much."""
    spare = gpu.memory_gib * USABLE_SHARE - plan.total / GIB
    reserve = gpu.memory_gib * (1 - USABLE_SHARE)
    sizes = f"{plan.total / GIB:.1f} of {gpu.memory_gib:g} GiB, {reserve:.1f} GiB in reserve"
    if spare >= 0:
        return f"fits {gpu.name}: {sizes}, {spare:.1f} GiB to spare"
    return f"does not fit {gpu.name}: {sizes}, {-spare:.1f} GiB too many"
