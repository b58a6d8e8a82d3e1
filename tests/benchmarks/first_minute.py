"""Seconds until a recipe answers: its help, a mistyped key, a missing file, a memory plan, and three steps of training.

python tests/benchmarks/first_minute.py
python tests/benchmarks/first_minute.py --beside ../another_checkout   # its recipes in turns with these
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parents[2]
TRAINING = "recipes/s2t_t2t.py"
PLAN = "recipes/plan_memory.py --config recipes/configs/omni7b_qlora.yaml --gpu 24GB"
COMMANDS = {  # and the exit code
    "help": (f"{TRAINING} --help", 0),
    "a mistyped key": (f"{TRAINING} --kl_weigth 0.5", 2),
    "a missing file": (f"{TRAINING} --questions missing.jsonl", 2),
    "a memory plan": (PLAN, 0),
    "three steps of the tiny lab": (f"{TRAINING} --max_steps 3 --overwrite_output_dir --output_dir RUN", 0),
}


def measure_seconds(checkout: Path, name: str, folder: Path) -> float:
    """Return the seconds of a command, from its start to its end; `folder` holds its caches and its run."""
    words, code = COMMANDS[name]
    command = [sys.executable, *(str(folder / word) if word == "RUN" else word for word in words.split())]
    environment = os.environ | {"PYTHONPATH": str(checkout), "XDG_CACHE_HOME": str(folder)}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    arguments = parser.parse_args()
    checkouts = [ROOT] if arguments.beside is None else [ROOT, arguments.beside.resolve()]
    rounds = 1 if arguments.smoke else arguments.rounds
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(list(COMMANDS)[: 3 if arguments.smoke else None], disable=not sys.stderr.isatty()):
            seconds: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
            for number in range(rounds + 1):
                for checkout in checkouts:
                    measured = measure_seconds(checkout, name, Path(folder))
                    if number or arguments.smoke:  # the first one reads the libraries from the disk
                        seconds[checkout].append(measured)
            medians = [f"{statistics.median(taken):.2f} s" for taken in seconds.values()]
            ranges = [f"({min(taken):.2f} to {max(taken):.2f})" for taken in seconds.values()]
            print(f"{name:<30}" + "  ".join(f"{m:>8} {r}" for m, r in zip(medians, ranges, strict=True)))


if __name__ == "__main__":
    main()
