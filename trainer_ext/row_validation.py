"""Look at every row before anything expensive starts; the first bad one is named, with the way out."""

import math
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from data_builders.schema import RESPONSE_COLUMN, SPEECH_RATE_HZ, check_channels
from trainer_ext.collator import check_length
from trainer_ext.teachers.base import Reader

REQUIRED_COLUMNS = ("id", "system", "question", "channels")


def check_rows(
    dataset: Dataset,
    family: Any,
    teacher: Reader | None,
    channels: list[str],
    hard_targets: str,
    max_length: int | None = None,
) -> list[int]:
    """Refuse a data set that a run could not train on; clips are not decoded here.

    Returns:
        The tokens that every row costs the student, all channels together.

    Raises:
        ValueError: a missing column; a row with an empty question or response, an unknown channel, a clip of zero
            length or longer than the student takes, more than `max_length` tokens, or a response that the teacher
            cannot be compared on; or no row at all for a channel the run trains. The message names the column or the
            row's id.
    """
    response_column = RESPONSE_COLUMN[hard_targets]
    needs_speech = "s2t" in channels
    wanted = [
        *REQUIRED_COLUMNS,
        response_column,
        *(["speech", "speech_seconds"] if needs_speech else []),
    ]
    if missing := [column for column in wanted if column not in dataset.column_names]:
        raise ValueError(
            f"the data set has no column {', '.join(missing)}; it has {', '.join(dataset.column_names)}. "
            "The columns are described in data_builders/schema.py"
        )
    clip_bytes = count_clip_bytes(dataset) if needs_speech else []
    trained = dict.fromkeys(channels, 0)
    lengths = []
    for number, row in enumerate(dataset.select_columns([c for c in wanted if c != "speech"])):
        name = f"row {row['id']}"
        if not row["question"] or not row["question"].strip():
            raise ValueError(f"{name}: its question is empty")
        if not row[response_column] or not row[response_column].strip():
            raise ValueError(
                f"{name}: its {response_column} is empty, but hard_targets is {hard_targets!r}"
            )
        check_channels(row["channels"], name)
        for channel in row["channels"]:
            if channel in trained:
                trained[channel] += 1
        response = family.encode_response(row[response_column])
        lengths.append(0)
        if "t2t" in channels and "t2t" in row["channels"]:
            prompt = family.encode_text_prompt(row["question"], row["system"])
            check_length(row["id"], "t2t", len(prompt) + len(response), max_length)
            lengths[-1] += len(prompt) + len(response)
        if needs_speech and "s2t" in row["channels"]:
            seconds = row["speech_seconds"]
            check_clip(name, seconds, clip_bytes[number], family.max_speech_seconds)
            try:
                prompt = family.encode_speech_prompt(round(seconds * SPEECH_RATE_HZ), row["system"])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            check_length(row["id"], "s2t", len(prompt) + len(response), max_length)
            lengths[-1] += len(prompt) + len(response)
        if teacher is not None:
            teacher.check_row(row, row[response_column], response)
    for channel, count in trained.items():
        if count == 0:
            raise ValueError(
                f"no row of the data set trains channel {channel!r}, which the run's channels ask for. Build the data "
                f"set with it, or run with channels without {channel!r}."
            )
    return lengths


def count_clip_bytes(dataset: Dataset) -> list[int]:
    """Length of every clip's file without copying it; 0 for none. A clip kept as a path counts as one byte."""
    column = dataset.with_format("arrow")[:]["speech"]
    lengths = pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0)
    by_path = pc.fill_null(pc.binary_length(pc.struct_field(column, "path")), 0)
    return [
        length or min(path, 1)
        for length, path in zip(lengths.to_pylist(), by_path.to_pylist(), strict=True)
    ]


def check_clip(name: str, seconds: float | None, length_bytes: int, max_seconds: float) -> None:
    """Refuse a clip that is missing, empty or too long."""
    if seconds is not None and (math.isnan(seconds) or seconds <= 0):
        raise ValueError(f"{name}: its speech has zero length (speech_seconds is {seconds})")
    if length_bytes == 0 or seconds is None:
        raise ValueError(
            f"{name}: it trains s2t but has no speech or no speech_seconds; add them, "
            "or take 's2t' from its channels"
        )
    if seconds > max_seconds:
        raise ValueError(
            f"{name}: its speech is {seconds:.1f} s long, and the student takes {max_seconds:g} s at most; "
            "leave the row out or shorten the question (a clip is never cut)"
        )
