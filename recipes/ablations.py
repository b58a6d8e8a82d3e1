"""The paper's questions asked of the tiny lab: every ablation under several seeds, one table.

    python recipes/ablations.py                          # five configs, three seeds: about an hour on two cores
    python recipes/ablations.py --configs tiny tiny_stored tiny_self          # the kinds of teacher
    python recipes/ablations.py --configs tiny_jsd tiny_reverse_kl --seeds 0

Each run is `recipes/s2t_t2t.py` in a process of its own; a run whose report.json is there is not repeated.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import yaml
from tqdm import tqdm

RECIPES = Path(__file__).parent
CONFIGS = ("tiny", "tiny_s2t_only", "tiny_t2t_only", "tiny_gold", "tiny_no_kl")
FIGURES = ("text", "speech", "gap", "forgetting")
COSTS = {"peak_memory_gib": "memory, GiB", "seconds_per_step": "seconds a step"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--configs", nargs="+", default=CONFIGS, metavar="NAME", help="names in recipes/configs"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="SEED")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/ablations"))
    arguments = parser.parse_args()

    runs = [(name, seed) for seed in arguments.seeds for name in arguments.configs]
    for name, seed in tqdm(runs, unit="run"):
        run_once(name, seed, arguments.output_dir / f"{name}-{seed}")
    table = make_table(arguments.configs, arguments.seeds, arguments.output_dir)
    (arguments.output_dir / "table.md").write_text(table, encoding="utf-8")
    print(table)


def run_once(name: str, seed: int, folder: Path) -> None:
    """One run of the recipe, its output in `folder`/log.txt; stops here if it fails."""
    if (folder / "report.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = RECIPES / "configs" / f"{name}.yaml"
    scripts = ["s2t_t2t.py"]
    if yaml.safe_load(config.read_text(encoding="utf-8")).get("teacher_kind") == "stored":
        scripts.insert(0, "cache_teacher.py")  # does nothing when it is there
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        for script in scripts:
            command = [sys.executable, str(RECIPES / script), "--config", str(config)]
            done = subprocess.run(
                [*command, "--seed", str(seed), "--output_dir", str(folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            if done.returncode != 0:
                raise SystemExit(
                    f"{name} with seed {seed} failed; its last words are in {folder / 'log.txt'}"
                )


def make_table(configs: list[str], seeds: list[int], folder: Path) -> str:
    """Markdown: mean and spread (standard deviation) over the seeds of every config's scores, in percent, and costs."""
    lines = [
        f"| exact answers, percent ({len(seeds)} seeds) | {' | '.join((*FIGURES, *COSTS.values()))} |",
        "|---|" + "---|" * (len(FIGURES) + len(COSTS)),
    ]
    for name in configs:
        reports = [
            json.loads((folder / f"{name}-{seed}" / "report.json").read_text()) for seed in seeds
        ]
        if name == configs[0]:
            before = reports[0]["before"]["all"]
            cells = [f"{before[key]:.1f}" for key in FIGURES]
            lines.append(f"| untouched student | {' | '.join(cells)} |{' |' * len(COSTS)}")
        cells = [describe([report["after"]["all"][key] for report in reports]) for key in FIGURES]
        cells += [f"{statistics.mean(report[key] for report in reports):.3g}" for key in COSTS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def describe(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


if __name__ == "__main__":
    main()
