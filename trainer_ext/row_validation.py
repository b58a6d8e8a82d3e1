"""Validate every row before anything expensive starts; the first bad row is named, with the way out."""

import math
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from data_builders.schema import RESPONSE_COLUMN, check_channels
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.collator import check_length
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.encode_row import encode_row, estimate_samples
from trainer_ext.teachers.base import TeacherEncoder

REQUIRED_COLUMNS = ("id", "system", "question", "channels")
BY_LENGTH = ("group_by_length", "batch_rebalance")  # values of `train_sampling_strategy`


def check_rows(
    dataset: Dataset,
    student: StudentEncoder,
    teacher: TeacherEncoder | None,
    channels: list[str],
    hard_targets: str,
    max_length: int | None = None,
) -> list[int]:
    """Validate a data set for a run; clips are not decoded here.

    Returns:
        The student's tokens of every row, all channels together.

    Raises:
        ValueError: a missing column; a row with an empty question or response, an unknown channel, a clip of zero
            length or longer than the student takes, more than `max_length` tokens, or a response that the teacher
            cannot be compared on; or no row at all for a channel the run trains. The message names the column or the
            row's id.
    """
    response_column = RESPONSE_COLUMN[hard_targets]
    needs_speech = "s2t" in channels
    wanted = [*REQUIRED_COLUMNS, response_column, *(["speech", "speech_seconds"] if needs_speech else [])]
    if missing := [column for column in wanted if column not in dataset.column_names]:
        raise ValueError(
            f"the data set has no column {', '.join(missing)}; it has {', '.join(dataset.column_names)}. "
            "The columns are described in data_builders/schema.py"
        )
    if teacher is not None:
        teacher.check_student(student)
    clip_bytes = count_clip_bytes(dataset) if needs_speech else []
    trained = dict.fromkeys(channels, 0)
    lengths = []
    for number, row in enumerate(dataset.select_columns([c for c in wanted if c != "speech"])):
        check_text(row, response_column, hard_targets)
        check_channels(row["channels"], f"row {row['id']}")
        response = student.encode_response(row[response_column])
        lengths.append(0)
        for channel in trained:
            if channel not in row["channels"]:
                continue
            trained[channel] += 1
            if channel == "s2t":
                check_clip(row, clip_bytes[number], student.max_speech_seconds)
            lengths[-1] += count_tokens(student, row, channel, response, max_length)
        if teacher is not None:
            teacher.check_row(row, row[response_column], response)
    for channel, count in trained.items():
        if count == 0:
            raise ValueError(
                f"no row of the data set trains channel {channel!r}, which the run's channels ask for. Build the data "
                f"set with it, or run with channels without {channel!r}."
            )
    return lengths


def check_text(row: Mapping[str, Any], response_column: str, hard_targets: str) -> None:
    """Raise ValueError for an empty question or response."""
    if not row["question"] or not row["question"].strip():
        raise ValueError(f"row {row['id']}: its question is empty")
    if not row[response_column] or not row[response_column].strip():
        raise ValueError(f"row {row['id']}: its {response_column} is empty, but hard_targets is {hard_targets!r}")


def count_tokens(
    student: StudentEncoder, row: Mapping[str, Any], channel: str, response: list[int], max_length: int | None
) -> int:
    """Return the tokens of a row's prompt and response in one channel.

    Raises:
        ValueError: more than `max_length`, or a clip too short for one audio token; names the row.
    """
    try:
        prompt = encode_row(student, row, channel, estimate_samples(row, channel))
    except ValueError as error:
        raise ValueError(f"row {row['id']}: {error}") from error
    length = len(prompt) + len(response)
    check_length(row["id"], channel, length, max_length)
    return length


def count_clip_bytes(dataset: Dataset) -> list[int]:
    """Return the size of every clip's file without copying it; 0 for none, 1 for a clip that is stored as a path."""
    column = dataset.with_format("arrow")[:]["speech"]
    lengths = pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0)
    by_path = pc.fill_null(pc.binary_length(pc.struct_field(column, "path")), 0)
    return [length or min(path, 1) for length, path in zip(lengths.to_pylist(), by_path.to_pylist(), strict=True)]


def check_clip(row: Mapping[str, Any], length_bytes: int, max_seconds: float) -> None:
    """Raise ValueError for a clip that is missing, empty or too long."""
    name, seconds = f"row {row['id']}", row["speech_seconds"]
    if seconds is not None and (math.isnan(seconds) or seconds <= 0):
        raise ValueError(f"{name}: its speech has zero length (speech_seconds is {seconds})")
    if length_bytes == 0 or seconds is None:
        raise ValueError(
            f"{name}: it trains s2t but has no speech or no speech_seconds; add them, or take 's2t' from its channels"
        )
    if seconds > max_seconds:
        raise ValueError(
            f"{name}: its speech is {seconds:.1f} s long, and the student takes {max_seconds:g} s at most; "
            "leave the row out or shorten the question (a clip is never cut)"
        )


def prepare_rows(
    dataset: Dataset, student: StudentEncoder, teacher: TeacherEncoder | None, args: CrossModalDistillConfig
) -> tuple[Dataset, list[int]]:
    """Validate a data set and keep the rows that train at least one channel of the run.

    Returns:
        The rows, with a column of lengths where the sampler groups by it, and the student's tokens of each.
    """
    lengths = check_rows(dataset, student, teacher, args.channels, args.hard_targets, args.max_length)
    column = args.length_column_name
    if args.train_sampling_strategy in BY_LENGTH and column not in dataset.column_names:
        dataset = dataset.add_column(column, lengths)
    kept = [number for number, length in enumerate(lengths) if length]
    if len(kept) < len(dataset):
        dataset = dataset.select(kept)
    return dataset, [lengths[number] for number in kept]
