"""The same work on one process, several, or many machines: datatrove's executors.

Work is a function of rank and world size that takes every world-size-th shard. It is safe to run twice, and to kill.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from data_builders.arguments import PipelineArguments

PR_SET_PDEATHSIG = 1  # linux/prctl.h
Share = Callable[[int, int], None]
# Of this process, before it is pinned; only Linux has the call.
ALL_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class ShareTask:
    """A share of the work as a step of a datatrove pipeline."""

    def __init__(self, share: Share, machine: int, machines: int) -> None:
        self.share, self.machine, self.machines = share, machine, machines

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        silence_datatrove()  # in every process that unpickles the task

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        self.share(self.machine * world_size + rank, self.machines * world_size)
        return data


class FinishTask:
    """The last step of the work as a step of a datatrove pipeline."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self.finish = finish

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        self.finish()
        return data


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even by kill -9; Linux alone has the call.

    A worker or datatrove's helper would otherwise wait for ever, with the libraries that it has imported.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_starter() -> None:
    """`die_with_parent` for a process that datatrove has started, whose parent may have died during its imports."""
    from multiprocess import parent_process

    die_with_parent()
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def run_shares(share: Share, arguments: PipelineArguments, finish: Callable[[], None], logs: Path) -> None:
    """Run all shares of this machine, then `finish`.

    Args:
        logs: folder of datatrove's logs and of a queue's job scripts.
    """
    task = ShareTask(share, *arguments.parse_shard())
    if arguments.executor == "local" and arguments.workers == 1:
        task(None)
    else:
        EXECUTORS[arguments.executor](task, arguments, finish, logs / arguments.executor)
    if arguments.executor != "slurm":
        finish()


def silence_datatrove() -> None:
    """Disable datatrove's logger, which would break the progress bars."""
    from datatrove.utils.logging import logger

    logger.disable("datatrove")


def parse_options(arguments: PipelineArguments) -> dict[str, Any]:
    """Return `executor_options` as keyword arguments; numbers are converted."""
    options: dict[str, Any] = {}
    for entry in arguments.executor_options:
        key, _, value = entry.partition("=")
        options[key] = int(value) if value.isdecimal() else value
    return options


def run_locally(task: ShareTask, arguments: PipelineArguments, _: Callable[[], None], logs: Path) -> None:
    """Run `workers` processes on this machine."""
    from datatrove.executor import LocalPipelineExecutor

    silence_datatrove()
    os.register_at_fork(after_in_child=die_with_parent)  # datatrove's manager is a fork
    LocalPipelineExecutor(
        [partial(run_on_own_cores, task)],
        tasks=arguments.workers,
        workers=arguments.workers,
        logging_dir=str(logs),
        skip_completed=False,
        start_method="spawn",
    ).run()


def run_on_own_cores(task: ShareTask, data: Any, rank: int = 0, world_size: int = 1) -> Any:
    """Run on this rank's part of the cores, with a thread for each.

    A worker and its engine's processes take turns. The scheduler moves them over all cores, and two workers reach 1.6
    times the speed of one instead of 2.
    """
    if ALL_CORES:
        cores = ALL_CORES[rank % len(ALL_CORES) :: world_size]
        os.sched_setaffinity(0, cores)
        if torch := sys.modules.get("torch"):  # counted all cores; threads on one core wait for each other by spinning
            torch.set_num_threads(len(cores))
    return task(data, rank, world_size)


def run_by_slurm(task: ShareTask, arguments: PipelineArguments, finish: Callable[[], None], logs: Path) -> None:
    """Queue `workers` tasks on a Slurm cluster with shared folders, then one that finishes."""
    from datatrove.executor import SlurmPipelineExecutor

    options = {"time": "24:00:00", "partition": "gpu", **parse_options(arguments)}
    work = SlurmPipelineExecutor(
        [task],
        tasks=arguments.workers,
        job_name="build_data",
        logging_dir=str(logs),
        skip_completed=False,
        **options,
    )
    SlurmPipelineExecutor(
        [FinishTask(finish)],
        tasks=1,
        job_name="finish_data",
        depends=work,
        logging_dir=f"{logs}_finish",
        skip_completed=False,
        **options,
    ).run()


def run_by_ray(task: ShareTask, arguments: PipelineArguments, _: Callable[[], None], logs: Path) -> None:
    """Run `workers` tasks on a Ray cluster with shared folders."""
    from datatrove.executor import RayPipelineExecutor

    RayPipelineExecutor(
        [task],
        tasks=arguments.workers,
        workers=arguments.workers,
        logging_dir=str(logs),
        skip_completed=False,
        **parse_options(arguments),
    ).run()


EXECUTORS = {"local": run_locally, "slurm": run_by_slurm, "ray": run_by_ray}
