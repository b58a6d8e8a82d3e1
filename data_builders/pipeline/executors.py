"""The same work on one process, several, or many machines: datatrove's executors, by one argument.

Work is a function of rank and world size that takes every world-size-th shard. It is safe to run twice, and to kill.
"""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from data_builders.arguments import BuildArguments

Share = Callable[[int, int], None]
# Of this process, before it takes its share; Linux alone tells.
ALL_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Task:
    """A share of the work as a step of a datatrove pipeline."""

    def __init__(self, share: Share, machine: int, machines: int) -> None:
        self.share, self.machine, self.machines = share, machine, machines

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        silence_datatrove()  # in every process that it is sent to

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        self.share(self.machine * world_size + rank, self.machines * world_size)
        return data


def run_shares(
    share: Share, arguments: BuildArguments, finish: Callable[[], None], logs: Path
) -> None:
    """Run the whole of `share`, or this machine's part of it, then `finish`.

    Args:
        logs: folder of this build's logs, and of what a queue is told to run.
    """
    machine, machines = arguments.parse_shard()
    task = Task(share, machine, machines)
    if arguments.executor == "local" and arguments.workers == 1:
        task(None)
    else:
        EXECUTORS[arguments.executor](task, arguments, finish, logs / arguments.executor)
    if arguments.executor != "slurm":
        finish()


def silence_datatrove() -> None:
    """Leave the terminal to the progress bars; datatrove's own words are about its pipelines."""
    from datatrove.utils.logging import logger

    logger.disable("datatrove")


def run_locally(task: Task, arguments: BuildArguments, _: Callable[[], None], logs: Path) -> None:
    """`workers` processes of this machine."""
    from datatrove.executor import LocalPipelineExecutor

    silence_datatrove()
    LocalPipelineExecutor(
        [partial(run_on_own_cores, task)],
        tasks=arguments.workers,
        workers=arguments.workers,
        logging_dir=str(logs),
        skip_completed=False,
        start_method="spawn",
    ).run()


def run_on_own_cores(task: Task, data: Any, rank: int = 0, world_size: int = 1) -> Any:
    """Run on this rank's share of the cores.

    A worker and its engine's processes take turns; left to the scheduler they chase each other over all cores, and two
    workers speak 1.6 times as much as one instead of twice.
    """
    if ALL_CORES and len(ALL_CORES) >= world_size:
        os.sched_setaffinity(0, ALL_CORES[rank::world_size])
    return task(data, rank, world_size)


def run_by_slurm(
    task: Task, arguments: BuildArguments, finish: Callable[[], None], logs: Path
) -> None:
    """`workers` tasks of a Slurm cluster that shares the folders, then one that finishes."""
    from datatrove.executor import SlurmPipelineExecutor

    shared = dict(
        time=arguments.slurm_time, partition=arguments.slurm_partition, skip_completed=False
    )
    work = SlurmPipelineExecutor(
        [task],
        tasks=arguments.workers,
        job_name="build_data",
        logging_dir=str(logs),
        cpus_per_task=arguments.task_cpus,
        mem_per_cpu_gb=math.ceil(arguments.task_memory_gb / arguments.task_cpus),
        gpus_per_task=arguments.task_gpus,
        **shared,
    )
    SlurmPipelineExecutor(
        [Finish(finish)],
        tasks=1,
        job_name="finish_data",
        depends=work,
        logging_dir=f"{logs}_finish",
        mem_per_cpu_gb=arguments.task_memory_gb,
        **shared,
    ).run()


def run_by_ray(task: Task, arguments: BuildArguments, _: Callable[[], None], logs: Path) -> None:
    """`workers` tasks of a Ray cluster that shares the folders."""
    from datatrove.executor import RayPipelineExecutor

    RayPipelineExecutor(
        [task],
        tasks=arguments.workers,
        workers=arguments.workers,
        logging_dir=str(logs),
        cpus_per_task=arguments.task_cpus,
        mem_per_cpu_gb=arguments.task_memory_gb / arguments.task_cpus,
        gpus_per_task=arguments.task_gpus,
        skip_completed=False,
    ).run()


class Finish:
    """The end of the work as a step of a datatrove pipeline."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self.finish = finish

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        self.finish()
        return data


EXECUTORS = {"local": run_locally, "slurm": run_by_slurm, "ray": run_by_ray}
