"""Tests of the processes of a build."""

import json
import os
from functools import partial
from pathlib import Path

import torch

from data_builders.arguments import PipelineArguments
from data_builders.pipeline.executors import ALL_CORES, run_shares


def write_threads(folder: Path, rank: int, world_size: int) -> None:
    """Write the cores and the threads that a worker computes with."""
    facts = {"cores": sorted(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}
    (folder / f"{rank}.json").write_text(json.dumps(facts))


def test_a_worker_computes_with_a_thread_for_each_of_its_cores(tmp_path):
    """Prevents: threads that wait for each other on one core, which takes many times as long."""
    arguments = PipelineArguments(output_dir=str(tmp_path), workers=2)
    run_shares(partial(write_threads, tmp_path), arguments, lambda: None, tmp_path / "logs")
    found = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert [worker["threads"] for worker in found] == [len(worker["cores"]) for worker in found]
    assert len(found) == 2
    assert {core for worker in found for core in worker["cores"]} == set(ALL_CORES)
