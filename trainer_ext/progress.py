"""The training bar, with one short line a log instead of a dictionary of thirty figures; and nothing else said."""

import os
import warnings
from typing import Any

import datasets
import transformers
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from data_builders.schema import CHANNELS


class ChannelProgressCallback(ProgressCallback):
    """transformers' progress bar that writes what each channel's loss is made of; all figures stay in the logs."""

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
                self.training_bar.write(
                    f"{prefix.rstrip('_') or 'train'} step {state.global_step:>5}  {line}"
                )


def describe_channels(logs: dict[str, Any], prefix: str) -> str:
    """ "t2t ce 0.51 kl 0.20 accuracy 0.81 | s2t ..." of the channels that the logs speak of."""
    parts = [
        f"{channel} "
        + " ".join(
            f"{name} {logs[f'{prefix}{channel}/{name}']:.3g}" for name in ("ce", "kl", "accuracy")
        )
        for channel in CHANNELS
        if f"{prefix}{channel}/ce" in logs
    ]
    return " | ".join(parts)


def keep_libraries_quiet() -> None:
    """Leave the terminal to the run: errors and our own warnings, no chatter about loading."""
    warnings.filterwarnings(
        "ignore", module=r"(torch|transformers|trl|peft|bitsandbytes|datasets)\b"
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
