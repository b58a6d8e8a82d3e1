"""A build of rows in Open-Orca's format: rows kept, rows per second, memory, and the gain of more workers.

    python tests/benchmarks/pipeline.py                                   # 5,000 rows through all stages, two workers
    python tests/benchmarks/pipeline.py --rows 1000 5000 20000 --stages speech    # is memory flat?
    python tests/benchmarks/pipeline.py --workers 1 2 4 --stages speech           # and is it the same data set?

Memory is the largest resident set of any one process of the build; every build is a process tree of its own.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from data_builders.questions.speakability import SpeakabilityFilter  # noqa: E402
from tests.support.open_orca import make_rows, write_rows  # noqa: E402

STAGE_SETTINGS = {
    "verification": ["--recognizer", "pocketsphinx"],
    "answers": ["--teacher_model_name_or_path", str(ROOT / "recipes" / "tiny_lab" / "teacher")],
}
WITHOUT = {"verification": ["--recognizer", "none"], "answers": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5000])
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--stages", nargs="+", default=["answers", "speech", "verification"], metavar="STAGE")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rows, arguments.workers, arguments.stages = [200], [1], ["speech"]
    print("| rows | workers | kept | seconds | rows a second of each stage | MiB | digest |")
    print("|---|---|---|---|---|---|---|")
    for rows in arguments.rows:
        for workers in arguments.workers:
            run(rows, workers, arguments.stages)
    judge(arguments.rows[-1])


def run(rows: int, workers: int, stages: list[str]) -> None:
    """Run one build from empty folders; returns a row of the table."""
    folder = Path(tempfile.mkdtemp())
    write_rows(folder / "orca.jsonl", rows)
    command = [
        sys.executable,
        str(ROOT / "recipes" / "build_data.py"),
        "--questions",
        str(folder / "orca.jsonl"),
    ]
    command += [
        "--columns",
        "system=system_prompt",
        "gold_response=response",
        "--max_shard_size",
        "5MB",
    ]
    command += [
        "--cache_dir",
        str(folder / "data"),
        "--output_dir",
        str(folder / "made"),
        "--workers",
        str(workers),
    ]
    command += ["--config", str(write_config(folder)), "--near_duplicates", "0.95"]
    for stage, settings in STAGE_SETTINGS.items():
        command += settings if stage in stages else WITHOUT[stage]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = PeakMemory(process.pid)
    output = process.communicate()[0]
    seconds, memory = time.monotonic() - started, peak.stop()
    if process.returncode != 0:
        raise SystemExit(output[-2000:])
    manifest = json.loads((folder / "made" / "manifest.json").read_text())
    print(
        f"| {rows} | {workers} | {sum(manifest['rows'].values())} | {seconds:.0f} | {read_speeds(output)} | "
        f"{memory:.0f} | {hash_files(folder / 'made')} |",
        flush=True,
    )
    shutil.rmtree(folder)


def write_config(folder: Path) -> Path:
    """Write a config of the defaults."""
    file = folder / "config.yaml"
    file.write_text("answer_max_new_tokens: 24\ntrain_voices: [en-us/160/45, en-gb-x-rp+f2/160/65, en-029]\n")
    return file


def read_speeds(output: str) -> str:
    """Return the last state of every progress bar, of one worker."""
    speeds = {}
    for bar in re.split(r"[\r\n]", output):
        if told := re.match(r"(\w+):.*[, ]([\d.]+)(call/s|s/call)\]", bar):
            rate = float(told[2]) if told[3] == "call/s" else 1 / float(told[2])
            speeds[told[1]] = f"{told[1]} {rate:.0f}"
    return ", ".join(speeds.values())


def hash_files(folder: Path) -> str:
    """Return a hash of the rows of a data set."""
    digest = hashlib.sha256()
    for file in sorted((folder / "data").glob("*")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:8]


class PeakMemory(threading.Thread):
    """Peak memory of a process and its children."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root, self._over, self._peak = root, False, 0.0
        self.start()

    def run(self) -> None:
        while not self._over:
            for process in self._find(self._root):
                status = Path(f"/proc/{process}/status")
                try:
                    found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
                except OSError:
                    continue
                self._peak = max(self._peak, int(found[1]) / 1024 if found else 0.0)
            time.sleep(0.2)

    def _find(self, process: int) -> list[int]:
        try:
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        except OSError:
            return []
        return [process, *(below for child in children for below in self._find(int(child)))]

    def stop(self) -> float:
        self._over = True
        self.join()
        return self._peak


def judge(rows: int) -> None:
    """Return precision and recall of the filter on the generated rows, without near duplicates."""
    judge = SpeakabilityFilter(60, 25.0)
    told = [
        (judge.find_reason(row["question"].strip()) is None, label == "yes")
        for row, label in make_rows(rows)
        if label != "again"
    ]
    right = sum(kept and label for kept, label in told)
    kept, speakable = sum(kept for kept, _ in told), sum(label for _, label in told)
    print(f"filter on {len(told)} rows: precision {right / kept:.3f}, recall {right / speakable:.3f}")


if __name__ == "__main__":
    main()
