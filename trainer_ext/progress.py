"""The training bar with one line per log, and quiet libraries."""

import os
import warnings
from typing import Any

import datasets
import transformers
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from data_builders.schema import CHANNELS
from trainer_ext.judge_free import NAMES as JUDGE_FREE


class ChannelProgressCallback(ProgressCallback):
    """transformers' progress bar with one line of loss parts per log; all figures stay in the logs."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        for prefix in ("", "eval_"):
            if line := describe_channels(logs, prefix):
                name, totals = prefix.rstrip("_") or "train", describe_totals(logs, prefix)
                scores = describe_scores(logs, prefix)
                self.training_bar.write(f"{name} step {state.global_step:>5}  {totals} | {line}{scores}")


def show_channels(trainer: Trainer) -> None:
    """Replace a trainer's progress output by one line per log, instead of a dictionary."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(ChannelProgressCallback)


def describe_totals(logs: dict[str, Any], prefix: str) -> str:
    """Return "loss 1.23 lr 0.002 epoch 0.4" for the totals in the logs."""
    shown = {"loss": f"{prefix}loss", "lr": "learning_rate", "epoch": "epoch"}
    return " ".join(f"{name} {float(logs[key]):.3g}" for name, key in shown.items() if key in logs)


def describe_scores(logs: dict[str, Any], prefix: str) -> str:
    """Return " | forgetting 0.07 misalignment 0.24 text 95.8 speech 50" for the figures of an evaluation."""
    shown = [f"{name} {logs[prefix + name]:.3g}" for name in JUDGE_FREE if prefix + name in logs]
    for modality in ("text", "speech"):
        shown += [f"{modality} {value:.3g}" for key, value in logs.items() if key.startswith(f"{prefix}{modality}/")]
    return f" | {' '.join(shown)}" if shown else ""


def describe_channels(logs: dict[str, Any], prefix: str) -> str:
    """Return "t2t ce 0.51 kl 0.20 token_accuracy 0.81 | s2t ..." for the channels in the logs."""
    parts = [
        f"{channel} "
        + " ".join(f"{name} {logs[f'{prefix}{channel}/{name}']:.3g}" for name in ("ce", "kl", "token_accuracy"))
        for channel in CHANNELS
        if f"{prefix}{channel}/ce" in logs
    ]
    return " | ".join(parts)


def keep_libraries_quiet() -> None:
    """Show errors and our own warnings alone; hide the libraries' messages about loading."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|trl|peft|bitsandbytes|datasets)\b")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
