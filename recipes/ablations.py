"""Run the paper's ablations on the tiny lab: every variant with several seeds, one table.

    configs or a study -> recipes/s2t_t2t.py per variant and seed -> report.json -> mean and standard deviation

    python recipes/ablations.py                          # five configs, three seeds: about an hour on two cores
    python recipes/ablations.py --configs tiny tiny_stored tiny_self          # the kinds of teacher
    python recipes/ablations.py --study recipes/studies/wer_buckets.yaml      # what the data does
    python recipes/ablations.py --configs tiny_jsd tiny_reverse_kl --seeds 0

Each run is `recipes/s2t_t2t.py` in a process of its own, in a study with a `data_config` on a data set of
`recipes/build_data.py`; a run whose report.json is there is not repeated.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from trainer_ext.command_line import run_command

RECIPES = Path(__file__).parent
CONFIGS = ("tiny", "tiny_s2t_only", "tiny_t2t_only", "tiny_gold", "tiny_no_kl")
FIGURES = ("text", "speech", "gap", "forgetting")
DIVERGENCES = ("forgetting", "misalignment")  # in nats per response token
COSTS = {"peak_memory_gib": "memory, GiB", "seconds_per_step": "seconds a step"}


@dataclass
class Variant:
    """One line of the table: a config, and in a study further arguments of data and training."""

    name: str
    config: str
    data_config: str | None = None  # None: the run has data of its own
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="NAME", help="names in recipes/configs")
    parser.add_argument("--study", type=Path, help="a file of recipes/studies instead of configs")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="SEED")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/ablations"))
    arguments = parser.parse_args()

    variants, root = [Variant(name, name) for name in arguments.configs], arguments.output_dir
    if arguments.study is not None:
        variants, root = read_study(arguments.study), root / arguments.study.stem
    for variant in variants:
        build_data(variant, root)
    for seed, variant in tqdm([(s, v) for s in arguments.seeds for v in variants], unit="run"):
        run_once(variant, seed, root)
    table = make_table(variants, arguments.seeds, root)
    (root / "table.md").write_text(table, encoding="utf-8")
    print(table)


def read_study(file: Path) -> list[Variant]:
    """Read the variants of a study: common arguments, and those of each variant."""
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [
        Variant(
            name,
            study["config"],
            study.get("data_config"),
            {**study.get("data", {}), **(own.get("data") or {})},
            {**study.get("training", {}), **(own.get("training") or {})},
        )
        for name, own in study["variants"].items()
    ]


def build_data(variant: Variant, root: Path) -> None:
    """Build the variant's data set, if it has one; cached work of other variants is reused."""
    if variant.data_config is not None:
        config = RECIPES / "configs" / "data" / f"{variant.data_config}.yaml"
        folder = root / "data" / variant.name
        call("build_data.py", config, folder, variant.data, root / f"{variant.name}-data.txt")


def run_once(variant: Variant, seed: int, root: Path) -> None:
    """Run the recipe once, with its output in a log beside its folder; a run that was killed goes on."""
    folder = root / f"{variant.name}-{seed}"
    if (folder / "report.json").exists():
        return
    config = RECIPES / "configs" / f"{variant.config}.yaml"
    training = {**variant.training, "seed": seed, "resume_from_checkpoint": "true"}
    if variant.data_config is not None:
        training.update(questions="", dataset_name=str(root / "data" / variant.name))
    scripts = ["s2t_t2t.py"]
    if {**yaml.safe_load(config.read_text(encoding="utf-8")), **training}.get("teacher_kind") == "stored":
        scripts.insert(0, "cache_teacher.py")  # does nothing if the table exists
    for script in scripts:
        call(script, config, folder, training, root / f"{folder.name}.log")


def call(script: str, config: Path, folder: Path, arguments: dict[str, Any], log: Path) -> None:
    """Run a recipe in its own process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(RECIPES / script), "--config", str(config)]
    command += ["--output_dir", str(folder)]
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        command += [f"--{name}", *map(str, values)]
    with log.open("a", encoding="utf-8") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise ValueError(f"{script} failed; the error is in {log}")


def make_table(variants: list[Variant], seeds: list[int], root: Path) -> str:
    """Return a Markdown table: mean and standard deviation over seeds of every variant's scores, and costs."""
    evaluator = read_report(variants[0], seeds[0], root)["evaluator"].replace("_", " ")
    data_figures = read_data_figures(variants, root)
    divergences = [f"{name}, nats" for name in DIVERGENCES]
    every = [read_report(variant, seed, root) for variant in variants for seed in seeds]
    sounds = ["sounds"] if any("sounds" in report for report in every) else []
    columns = (*FIGURES, *sounds, *divergences, *COSTS.values(), *next(iter(data_figures.values())))
    lines = [
        f"| {evaluator}, percent (seeds: {len(seeds)}) | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
    ]
    for variant in variants:
        reports = [read_report(variant, seed, root) for seed in seeds]
        if variant is variants[0]:
            before = reports[0]["before"]["all"]
            cells = [f"{before[key]:.1f}" for key in FIGURES]
            cells += describe_sounds(reports[:1], "before") if sounds else []
            cells += describe_divergences(reports[:1], "before")
            lines.append(f"| untouched student | {' | '.join(cells)} |{' |' * (len(columns) - len(cells))}")
        cells = [describe([report["after"]["all"][key] for report in reports]) for key in FIGURES]
        cells += describe_sounds(reports, "after") if sounds else []
        cells += describe_divergences(reports, "after")
        cells += [f"{statistics.mean(report[key] for report in reports):.3g}" for key in COSTS]
        cells += data_figures[variant.name].values()
        lines.append(f"| {variant.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read_report(variant: Variant, seed: int, root: Path) -> dict[str, Any]:
    """Read the report of a run."""
    return json.loads((root / f"{variant.name}-{seed}" / "report.json").read_text(encoding="utf-8"))


def read_data_figures(variants: list[Variant], root: Path) -> dict[str, dict[str, str]]:
    """Return the training rows of every variant's data set, and the word error rate of its speech."""
    figures: dict[str, dict[str, str]] = {}
    for variant in variants:
        figures[variant.name] = {}
        if variant.data_config is not None:
            manifest = json.loads((root / "data" / variant.name / "manifest.json").read_text())
            heard = "noisy_wer" if "noisy_wer" in manifest["means"] else "wer"
            figures[variant.name] = {
                "training rows": str(manifest["rows"]["train"]),
                "word error rate": f"{manifest['means'].get(heard, float('nan')):.2f}",
            }
    return figures


def describe_divergences(reports: list[dict[str, Any]], when: str) -> list[str]:
    """Return mean and standard deviation of each divergence; empty for one that a kind of teacher does not give."""
    cells = []
    for name in DIVERGENCES:
        lines = [line for report in reports for line in report["judge_free"]]
        values = [line["value"] for line in lines if (line["name"], line["model"]) == (name, when)]
        cells.append(describe(values, digits=3) if values else "")
    return cells


def describe_sounds(reports: list[dict[str, Any]], when: str) -> list[str]:
    """Return the cell of the scores on sounds; empty for runs that were not asked about any."""
    values = [report["sounds"][when]["all"] for report in reports if "sounds" in report]
    return [describe(values) if values else ""]


def describe(values: list[float], digits: int = 1) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    run_command(main)
