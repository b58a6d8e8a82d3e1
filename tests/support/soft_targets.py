"""Soft targets of the lab's teacher."""

from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.soft_targets.cache import cache_soft_targets, make_settings, read_inputs
from tests.support.lab import TEACHER
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.top_k_scorer import TopKScorer


def make_soft_targets(
    folder: Path, pairs: datasets.DatasetDict, teacher: LiveTeacher, vocab_size: int, k: int = 64
) -> dict[str, Any]:
    """Write the table of all splits; returns its statistics."""
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    fingerprint = fingerprint_model(TEACHER)
    settings = make_settings(fingerprint, "model in float32", tokenizer, vocab_size, k, [1.0, 2.0])
    rows = datasets.concatenate_datasets(list(pairs.values()))
    return cache_soft_targets(
        read_inputs(rows, "teacher_response", tokenizer),
        folder,
        settings,
        lambda: TopKScorer(teacher, vocab_size, k, settings["temperatures"]),
        batch_size=16,
    )
