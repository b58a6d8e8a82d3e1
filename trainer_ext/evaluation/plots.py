"""Pictures of a report: scores in both modalities, answer lengths, gaps by group, robustness; loss over the steps."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from data_builders.schema import CHANNELS
from trainer_ext.evaluation.scoring import Results
from trainer_ext.evaluation.summary import ALL
from trainer_ext.evaluation.tables import find_line, list_modalities

CHANNEL_COLORS = {"t2t": "#4477aa", "s2t": "#cc6677", "a2t": "#228833"}
STYLES = {"ce": "-", "kl": "--"}
COLORS = ("#bbbbbb", "#228833", "#4477aa", "#cc6677", "#ccbb44", "#aa3377", "#66ccee")
GROUPS_SHOWN = 20


def plot_report(folder: Path, report: Mapping[str, Any], results: Results) -> list[Path]:
    """Write the pictures that the report has figures for; returns their files."""
    drawn: dict[str, tuple[Callable[[Axes, Mapping[str, Any]], None], bool]] = {
        "scores.png": (draw_scores, any("value" in line for line in report["scores"])),
        "gaps.png": (draw_gaps, any(line["kind"] == "gap" and line["group"] != ALL for line in report["differences"])),
        "lengths.png": (lambda axes, _: draw_lengths(axes, results), bool(results)),
        "robustness.png": (partial(draw_robustness, key="snr_db"), has_key(report, "snr_db")),
        "word_errors.png": (partial(draw_robustness, key="word_error_rate"), has_key(report, "word_error_rate")),
    }
    files = []
    for name, (draw, has_figures) in drawn.items():
        if has_figures:
            figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
            draw(axes, report)
            figure.savefig(folder / name, dpi=120)
            plt.close(figure)
            files.append(folder / name)
    return files


def list_models(report: Mapping[str, Any]) -> list[str]:
    """Return the models, in the order of the report."""
    return list(dict.fromkeys(line["model"] for line in report["scores"]))


def draw_bars(axes: Axes, places: Sequence[str], heights: Mapping[str, Sequence[Mapping[str, Any] | None]]) -> None:
    """Draw a group of bars at every place, one per model, with intervals; None leaves a place empty."""
    width = 0.8 / max(len(heights), 1)
    for number, (model, lines) in enumerate(heights.items()):
        known = [(i, line) for i, line in enumerate(lines) if line is not None and "value" in line]
        at = [i - 0.4 + width * (number + 0.5) for i, _ in known]
        values = [line["value"] for _, line in known]
        errors = [
            [line["value"] - line["low"] for _, line in known],
            [line["high"] - line["value"] for _, line in known],
        ]
        color = COLORS[number % len(COLORS)]
        axes.bar(at, values, width * 0.95, yerr=errors, color=color, label=model, capsize=2)
    axes.set_xticks(
        range(len(places)), places, rotation=30 if len(places) > 4 else 0, ha="right" if len(places) > 4 else "center"
    )
    axes.legend(fontsize="small")


def draw_scores(axes: Axes, report: Mapping[str, Any]) -> None:
    """Draw text and speech scores of every benchmark as bars."""
    lines = [line for line in report["scores"] if line["group"] == ALL and not line["condition"]]
    benchmarks = list(dict.fromkeys(line["benchmark"] for line in lines))
    places = [(name, modality) for name in benchmarks for modality in list_modalities(report)]
    places = [place for place in places if find_line(lines, benchmark=place[0], modality=place[1])]
    heights = {
        model: [find_line(lines, benchmark=name, modality=modality, model=model) for name, modality in places]
        for model in list_models(report)
    }
    draw_bars(axes, [f"{name.split('/')[-1]}\n{modality}" for name, modality in places], heights)
    axes.set(title="scores, percent, with 95 % intervals", ylim=(0, 110))


def draw_gaps(axes: Axes, report: Mapping[str, Any]) -> None:
    """Draw text - speech of every group (an accent, a domain, a task) as bars."""
    lines = [line for line in report["differences"] if line["kind"] == "gap" and not line["condition"]]
    groups = list(dict.fromkeys((line["benchmark"], line["group"]) for line in lines if line["group"] != ALL))
    groups = groups[:GROUPS_SHOWN]
    heights = {
        model: [find_line(lines, benchmark=name, group=group, model=model) for name, group in groups]
        for model in list_models(report)
    }
    draw_bars(axes, [group.rpartition("/")[2] for _, group in groups], heights)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title="gap: text score - speech score", ylabel="points")


def draw_lengths(axes: Axes, results: Results) -> None:
    """Draw how long the answers are, per model and modality."""
    lengths: dict[str, list[int]] = {}
    for cell, scored in results.items():
        if not cell.condition:
            words = lengths.setdefault(f"{cell.model}\n{cell.modality}", [])
            words += [len(entry.answered.answer.text.split()) for entry in scored]
    axes.boxplot(list(lengths.values()), tick_labels=list(lengths), showfliers=False)
    axes.set(title="length of the answers", ylabel="words")


CURVES = {
    "snr_db": "signal-to-noise ratio of the recordings, dB",
    "word_error_rate": "word error rate of the recordings, percent",
}


def has_key(report: Mapping[str, Any], key: str) -> bool:
    """Tell whether the recordings were measured so."""
    return any(key in line for line in report.get("robustness", []))


def draw_robustness(axes: Axes, report: Mapping[str, Any], key: str) -> None:
    """Draw speech scores against a measure of the recordings, a key of CURVES."""
    lines = [line for line in report["robustness"] if key in line]
    curves = dict.fromkeys((line["benchmark"], line["model"]) for line in lines)
    for number, (benchmark, model) in enumerate(curves):
        here = [line for line in lines if (line["benchmark"], line["model"]) == (benchmark, model)]
        points = sorted((line[key], line["value"]) for line in here)
        color = COLORS[number % len(COLORS)]
        axes.plot(*zip(*points, strict=True), marker="o", color=color, label=f"{model}, {benchmark}")
    axes.set(title="speech score under other conditions", xlabel=CURVES[key], ylabel="percent")
    axes.legend()


def plot_training(file: Path, log_history: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG of the loss parts of a trainer's `log_history`."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for channel in CHANNELS:
        for part, style in STYLES.items():
            color = CHANNEL_COLORS[channel]
            for prefix, look in (("", {}), ("eval_", {"marker": "o", "alpha": 0.5})):
                key = f"{prefix}{channel}/{part}"
                points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=color, label=key, **look)
    axes.set(title="loss per response token", xlabel="step", ylabel="nats", yscale="log")
    if axes.lines:
        axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)
