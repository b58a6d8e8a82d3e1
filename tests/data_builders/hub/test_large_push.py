"""A data set of 2 GB: pushed with flat memory, killed in the middle, and resumed."""

import collections
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_builders.audio import encode_speech
from data_builders.hub.contents import Contents
from tests.support.hub.client import environment
from tests.support.hub.server import HubServer
from tests.support.lab import ROOT
from tests.support.processes import ENVIRONMENT

SHARDS, SHARD_BYTES = 8, 260_000_000
CARD = "---\ncrossmodal_kd:\n  kind: dataset\n  of: noise\n---\n# noise\n"


def write_shards(folder: Path, count: int) -> Path:
    """Write parquet files of noise in FLAC, each with ids of its own."""
    (folder / "data").mkdir(parents=True)
    clip = encode_speech(np.random.default_rng(0).uniform(-1, 1, 16_000 * 60).astype(np.float32))
    rows = SHARD_BYTES // len(clip)
    for number in range(count):
        table = pa.table({
            "id": [f"{number}-{row}" for row in range(rows)],
            "speech": [{"bytes": clip, "path": f"{row}.flac"} for row in range(rows)],
        })  # fmt: skip
        pq.write_table(table, folder / "data" / f"train-{number:05d}-of-{count:05d}.parquet", use_dictionary=False)
    (folder / "README.md").write_text(CARD)
    return folder


def start(folder: Path, hub: HubServer, name: str) -> subprocess.Popen:
    command = [sys.executable, "recipes/push.py", str(folder), name]
    return subprocess.Popen(
        command, cwd=ROOT, env={**ENVIRONMENT, **environment(hub)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def peak_bytes(process: subprocess.Popen) -> int:
    """Wait for a process; returns its largest resident set, as the kernel counts it."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:  # it has ended
            break
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            peak = int(found[1]) * 1024
        time.sleep(0.02)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-3000:]
    return peak


@pytest.mark.slow
def test_two_gigabytes_are_pushed_with_flat_memory_and_resumed_after_a_kill(tmp_path):
    """Prevents: a push that needs the memory of its data, and one that begins again after a lost connection."""
    assert Contents("dataset", "noise").to_metadata()["crossmodal_kd"]["of"] in CARD
    small, large = write_shards(tmp_path / "small", 1), write_shards(tmp_path / "large", SHARDS)
    total = sum(file.stat().st_size for file in large.rglob("*.parquet"))
    with HubServer(tmp_path / "hub") as hub:
        peak_of_small = peak_bytes(start(small, hub, "small"))
        killed = start(large, hub, "large")
        while len(list((tmp_path / "hub").glob("*[0-9a-f]"))) < 1 + SHARDS // 2 and killed.poll() is None:
            time.sleep(0.005)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert hub.files("tester/large", "dataset") == {}
        arrived = {file.name for file in (tmp_path / "hub").iterdir() if not file.name.endswith(".part")}
        before = collections.Counter(request for request in hub.requests if request.startswith("PUT"))
        peak = peak_bytes(start(large, hub, "large"))
        after = collections.Counter(request for request in hub.requests if request.startswith("PUT"))
        files = hub.find("tester/large", "dataset").head.files
    sizes = {path: blob.size for path, blob in files.items() if path != "README.md"}  # signed on the way
    assert sizes == {f"data/{file.name}": file.stat().st_size for file in (large / "data").iterdir()}
    sent_again = [request for request in after - before if request.rpartition("/")[2] in arrived]
    print(
        f"{total / 2**30:.2f} GiB: peak {peak / 2**20:.0f} MiB, of one shard {peak_of_small / 2**20:.0f} MiB; "
        f"{len(arrived) - 1} shards had arrived at the kill, {len(sent_again)} of them were sent again"
    )
    assert len(arrived) > 1
    assert sent_again == []
    assert peak < peak_of_small + 2**27
