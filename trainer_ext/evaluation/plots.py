"""One picture of a run: loss parts over the steps, scores before and after."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from data_builders.schema import CHANNELS
from trainer_ext.evaluation.scores import ALL_SOURCES, Scores

COLORS = {"t2t": "#4477aa", "s2t": "#cc6677"}
STYLES = {"ce": "-", "kl": "--"}


def plot_run(
    file: Path,
    log_history: list[dict[str, Any]],
    before: dict[str, Scores],
    after: dict[str, Scores],
) -> None:
    """Write a PNG of the trainer's `log_history` and of the scores."""
    figure, (curves, bars) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for channel in CHANNELS:
        for part, style in STYLES.items():
            key = f"{channel}/{part}"
            points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
            if points:
                curves.plot(*zip(*points, strict=True), style, color=COLORS[channel], label=key)
            held_out = [(entry["step"], entry[f"eval_{key}"]) for entry in log_history if f"eval_{key}" in entry]
            if held_out:
                curves.plot(*zip(*held_out, strict=True), style, color=COLORS[channel], marker="o", alpha=0.5,
                            label=f"eval {key}")  # fmt: skip
    curves.set(title="loss per response token", xlabel="step", ylabel="nats", yscale="log")
    if curves.lines:
        curves.legend()
    old, new = before[ALL_SOURCES], after[ALL_SOURCES]
    names = ("text", "speech")
    for i, name in enumerate(names):
        pair = (getattr(old, name), getattr(new, name))
        container = bars.bar([i - 0.2, i + 0.2], pair, 0.38, color=["#bbbbbb", "#228833"])
        bars.bar_label(container, fmt="%.1f", label_type="center")  # the teacher's line would cross one on top
    bars.axhline(new.teacher_text, color="black", linestyle=":", label="teacher, text")
    bars.set_xticks(range(len(names)), [f"student, {name}" for name in names])
    bars.set(title="exact answers: before (grey), after (green)", ylabel="percent", ylim=(0, 120))
    bars.legend(loc="upper left")
    figure.savefig(file, dpi=120)
    plt.close(figure)
