"""Loads full weights even when ZeRO-3 is on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config


@contextmanager
def without_zero3_init(training: TrainingArguments) -> Iterator[None]:
    """Disable ZeRO-3 partitioning during `from_pretrained`.

    transformers 5.23 cannot build Qwen2.5-Omni partitioned (its audio encoder fills a table that has no memory there:
    "Cannot copy out of meta tensor"), and the loss could not read a partitioned teacher. DeepSpeed partitions the
    student later.
    """
    plugin: Any = training.deepspeed_plugin
    config = getattr(training, "hf_deepspeed_config", None) or (plugin and plugin.dschf)
    if not config:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


def shards_parameters(training: TrainingArguments) -> bool:
    """Tell whether every process of the run will hold only a part of the weights: FSDP or ZeRO-3."""
    plugin: Any = training.deepspeed_plugin
    if plugin is not None:
        return plugin.zero_stage == 3
    return parse_flag_from_env("ACCELERATE_USE_FSDP") or bool(training.fsdp)
