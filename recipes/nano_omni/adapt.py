"""Rows that adapt an aligned model to speech: spoken questions to answer, clips to repeat, and a share in writing.

The rows are those of the data contract, so `CrossModalDistillTrainer` trains on them without a teacher.
"""

import random
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

REPEAT = "Repeat what you hear."  # the system prompt of a transcription
ANSWER, TRANSCRIBE, WRITTEN = "answer", "transcribe", "written"


def make_tasks(rows: Dataset, repeat_share: float, text_share: float, seed: int) -> Dataset:
    """Return the rows with a task each: their question answered by voice or in writing, or their clip repeated."""
    rng = random.Random(seed)
    shares = [1 - repeat_share - text_share, repeat_share, text_share]
    tasks = rng.choices((ANSWER, TRANSCRIBE, WRITTEN), shares, k=len(rows))
    repeats = [task == TRANSCRIBE for task in tasks]
    columns = {
        "system": [REPEAT if repeat else text for repeat, text in zip(repeats, rows["system"], strict=True)],
        "teacher_response": [
            question if repeat else answer
            for repeat, question, answer in zip(repeats, rows["question"], rows["teacher_response"], strict=True)
        ],
        "channels": [["t2t"] if task == WRITTEN else ["s2t"] for task in tasks],
    }
    return replace_columns(rows, columns)


def make_repeats(rows: Dataset) -> Dataset:
    """Return the rows as clips to repeat, their question being the reference."""
    return replace_columns(rows, {"system": [REPEAT] * len(rows), "reference": list(rows["question"])})


def replace_columns(rows: Dataset, columns: Mapping[str, list[Any]]) -> Dataset:
    """Return the rows with other values in some columns."""
    for name, values in columns.items():
        rows = rows.remove_columns(name).add_column(name, values)
    return rows
