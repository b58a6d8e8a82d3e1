"""Validate every row before anything expensive starts; rows that cannot be trained on are set aside by reason."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from data_builders.audio import measure_clip
from data_builders.chat import hash_vocabulary
from data_builders.outcomes import Rejected, RowRejected, list_rows
from data_builders.schema import CHANNELS, CLIP_COLUMNS, PAIR_CHANNELS, RESPONSE_COLUMN, SOUND_CHANNEL
from data_builders.storage.dataset_folder import check_column_types
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.collator import is_as_long_as_stated
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.encode_row import encode_row, estimate_samples
from trainer_ext.teachers.base import TeacherEncoder

REQUIRED_COLUMNS = ("id", "system", "question", "channels")
BY_LENGTH = ("group_by_length", "batch_rebalance")  # values of `train_sampling_strategy`
STAGE = "training"
SAMPLED_BYTES = 64  # at the end of every clip, by which another recording of the same size is told
CLIPS_AT_ONCE = 256  # in memory: a shuffled or split data set copies its clips when they are read


@dataclass
class CheckedRows:
    """The result of a validation.

    Attributes:
        lengths: the student's tokens of every row, all channels together; 0 for rows that are left out.
        rejected: rows that cannot be trained on, by id.
        digest: hash of what the other rows train: texts, channels, sizes of clips.
    """

    lengths: list[int] = field(default_factory=list)
    rejected: dict[str, Rejected] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True)
class StoredClip:
    """A clip in a data set, not decoded.

    Attributes:
        size: bytes; 0 for a missing clip, 1 for one that is stored as a path.
        sample: its last bytes in hexadecimal, or the path with the file's size and time.
        cell: the undecoded cell; None without speech.
    """

    size: int = 0
    sample: str = ""
    cell: pa.StructScalar | None = None


def check_rows(
    dataset: Dataset,
    student: StudentEncoder,
    teacher: TeacherEncoder | None,
    channels: list[str],
    hard_targets: str,
    max_length: int | None = None,
    every_channel: bool = True,
) -> CheckedRows:
    """Validate a data set for a run; of a clip, the header and the last sample are read.

    A row is rejected for an empty question or response, an unknown channel, a clip that is missing, empty, damaged, of
    another length than `speech_seconds`, or too short or too long for the student, more than `max_length` tokens, or a
    response that the teacher cannot be compared on.

    Raises:
        ValueError: a missing column, a teacher that does not fit the student or has nothing for a row, or no row at all
            for a channel that the run trains; the message names it.
    """
    response_column = RESPONSE_COLUMN[hard_targets]
    heard = [CLIP_COLUMNS[channel] for channel in channels if channel in CLIP_COLUMNS]
    wanted = [*REQUIRED_COLUMNS, response_column, *itertools.chain(*heard)]
    if missing := [column for column in wanted if column not in dataset.column_names]:
        raise ValueError(
            f"the data set has no column {', '.join(missing)}; it has {', '.join(dataset.column_names)}. "
            "The columns are described in data_builders/schema.py"
        )
    check_column_types(dataset.features, "the data set")
    if teacher is not None:
        teacher.check_student(student)
    columns = [clip for clip, _ in heard]
    samples = zip(*(sample_clips(dataset, column) for column in columns), strict=True) if columns else None
    checked, digest = CheckedRows(), hashlib.sha256()
    trained = dict.fromkeys(channels, 0)
    for number, (row, found) in enumerate(
        zip(
            dataset.select_columns([c for c in wanted if c not in columns]),
            itertools.repeat((), len(dataset)) if samples is None else samples,
            strict=True,
        )
    ):
        clips = dict(zip(columns, found, strict=True))
        if row["id"] is None:
            raise ValueError(f"row number {number} of the data set has no id")
        try:
            length, used = check_row(row, clips, student, teacher, channels, response_column, max_length)
        except RowRejected as error:
            checked.rejected[row["id"]] = error.rejected
            checked.lengths.append(0)
            continue
        checked.lengths.append(length)
        if used:
            facts = [fact for clip in found or [StoredClip()] for fact in (clip.size, clip.sample)]
            digest.update(json.dumps([list(row.values()), *facts]).encode())
        for channel in used:
            trained[channel] += 1
    checked.digest = digest.hexdigest()[:16]
    if not any(trained.values()):
        every_channel = True
    for channel, count in trained.items():
        if count == 0 and every_channel:
            raise ValueError(
                f"no row of the data set trains channel {channel!r}, which the run's channels ask for. Build the data "
                f"set with it, or run with channels without {channel!r}.{describe_rejected(checked.rejected)}"
            )
    return checked


def check_row(
    row: Mapping[str, Any],
    clips: Mapping[str, StoredClip],
    student: StudentEncoder,
    teacher: TeacherEncoder | None,
    channels: list[str],
    response_column: str,
    max_length: int | None,
) -> tuple[int, list[str]]:
    """Return the student's tokens of a row, and the run's channels that it trains.

    Args:
        clips: the row's clip in each column of clips that the run reads.

    Raises:
        RowRejected: it cannot be trained on.
    """
    for name in ("question", response_column):
        if not row[name] or not row[name].strip():
            raise reject(row, f"empty_{name}", f"its {name} is empty")
    if row["channels"] is None:
        raise reject(row, "no_channels", f"it names no channels; known are {', '.join(CHANNELS)}")
    if unknown := sorted({str(channel) for channel in row["channels"]} - set(CHANNELS)):
        raise reject(row, "unknown_channel", f"unknown channel {unknown[0]!r}; known are {', '.join(CHANNELS)}")
    used = [channel for channel in channels if channel in row["channels"]]
    if SOUND_CHANNEL in row["channels"] and len(row["channels"]) > 1:
        raise reject(row, "mixed_channels", f"it trains {SOUND_CHANNEL} and {row['channels']}: make two rows of it")
    for channel in used:
        if channel in CLIP_COLUMNS:
            check_clip(row, channel, clips[CLIP_COLUMNS[channel][0]], student.max_speech_seconds)
    response = student.encode_response(row[response_column])
    lengths = [count_tokens(student, row, channel, response, max_length) for channel in used]
    if teacher is not None and set(used) & set(PAIR_CHANNELS):
        if "t2t" not in used:  # the teacher reads the question in writing, whatever channel asks it
            count_tokens(student, row, "t2t", response, max_length)
        teacher.check_row(row, row[response_column], response)
    return sum(lengths), used


def reject(row: Mapping[str, Any], code: str, detail: str) -> RowRejected:
    """Return the rejection of a row as an error."""
    return RowRejected(row["id"], Rejected(STAGE, code, detail))


def count_tokens(
    student: StudentEncoder, row: Mapping[str, Any], channel: str, response: list[int], max_length: int | None
) -> int:
    """Return the tokens of a row's prompt and response in one channel.

    Raises:
        RowRejected: more than `max_length`, or a clip too short for one audio token.
    """
    try:
        prompt = encode_row(student, row, channel, estimate_samples(row, channel))
    except ValueError as error:
        raise reject(row, "speech_too_short", str(error)) from error
    length = len(prompt) + len(response)
    if max_length is not None and length > max_length:
        raise reject(
            row, "too_long", f"its {channel} prompt and response are {length} tokens long, more than {max_length=}"
        )
    return length


def sample_clips(dataset: Dataset, name: str = "speech") -> Iterator[StoredClip]:
    """Yield every clip of a column, undecoded, with its size and a sample of its bytes."""
    for batch in dataset.select_columns(name).with_format("arrow").iter(batch_size=CLIPS_AT_ONCE):
        column = batch[name]
        content = pc.struct_field(column, "bytes")
        sizes = pc.fill_null(pc.binary_length(content), 0).to_pylist()
        tails = pc.binary_slice(content, -SAMPLED_BYTES, None).to_pylist()
        paths = pc.struct_field(column, "path").to_pylist()
        for size, tail, path, cell in zip(sizes, tails, paths, column, strict=True):
            if size:
                yield StoredClip(size, tail.hex(), cell)
            else:
                yield StoredClip(1, describe_file(path), cell) if path else StoredClip()


def describe_file(path: str) -> str:
    """Return a file's path, size and time; a missing file is found where it is read."""
    file = Path(path)
    return f"{path} {file.stat().st_size} {file.stat().st_mtime_ns}" if file.is_file() else path


def check_clip(row: Mapping[str, Any], channel: str, clip: StoredClip, max_seconds: float) -> None:
    """Raise RowRejected for a clip that is missing, empty, too long, damaged, or not as long as its row says."""
    name, length = CLIP_COLUMNS[channel]
    stated = row[length]
    if stated is not None and (math.isnan(stated) or stated <= 0):
        raise reject(row, f"{name}_empty", f"its {name} has zero length ({length} is {stated})")
    if clip.cell is None or stated is None:
        raise reject(
            row,
            f"{name}_missing",
            f"it trains {channel} but has no {name} or no {length}; add them, or take {channel!r} from its channels",
        )
    try:
        seconds = measure_clip(clip.cell.as_py(), row["id"])
    except ValueError as error:
        raise reject(row, f"{name}_unreadable", str(error).partition(": ")[2]) from error
    if max(seconds, stated) > max_seconds:
        raise reject(
            row,
            f"{name}_too_long",
            f"its {name} is {max(seconds, stated):.1f} s long, and the student takes {max_seconds:g} s at most; no "
            "clip is cut",
        )
    if not is_as_long_as_stated(seconds, stated):
        raise reject(
            row,
            f"{name}_length_differs",
            f"its {name} is {seconds:.2f} s long, and {length} says {stated:.2f}: the clip is cut, or of another row",
        )


def prepare_rows(
    dataset: Dataset,
    student: StudentEncoder,
    teacher: TeacherEncoder | None,
    args: CrossModalDistillConfig,
    every_channel: bool = True,
) -> tuple[Dataset, CheckedRows]:
    """Validate a data set and keep the rows that train at least one channel of the run.

    Args:
        every_channel: the rows together must train all channels of the run; those of an evaluation need not.

    Returns:
        The rows, with a column of lengths where the sampler groups by it, and the validation's result, its lengths
        those of the kept rows.

    Raises:
        ValueError: see `check_rows`; or rows are rejected under `strict`, or more than `max_rejected_share` of them.
            The message names them all.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError("a streaming data set is refused: every row is checked before training. Load it whole")
    if not len(dataset):
        raise ValueError("the data set has no rows")
    checked = check_rows(dataset, student, teacher, args.channels, args.hard_targets, args.max_length, every_channel)
    if len(checked.rejected) > args.allowed_rejected_share * len(dataset):
        raise ValueError(
            f"{len(checked.rejected)} of {len(dataset)} rows cannot be trained on, and "
            f"{'strict allows none' if args.strict else f'max_rejected_share is {args.max_rejected_share:g}'}."
            f"{describe_rejected(checked.rejected)}"
        )
    column = args.length_column_name
    if args.train_sampling_strategy in BY_LENGTH and column not in dataset.column_names:
        dataset = dataset.add_column(column, checked.lengths)
    if args.train_sampling_strategy in BY_LENGTH:  # the order of the rows depends on the column, which may be theirs
        order = hashlib.sha256(json.dumps([checked.digest, list(dataset[column])]).encode())
        checked.digest = order.hexdigest()[:16]
    kept = [number for number, length in enumerate(checked.lengths) if length]
    if len(kept) < len(dataset):
        dataset = dataset.select(kept)
        checked.lengths = [checked.lengths[number] for number in kept]
    return dataset, checked


class PromptLength:
    """Check that a written question leaves room for an answer, before a teacher answers it; see `TextCheck`."""

    def __init__(self, student: StudentEncoder, max_length: int | None) -> None:
        self.student, self.max_length = student, max_length

    @property
    def key(self) -> str:
        return f"{self.max_length} tokens of {hash_vocabulary(self.student.tokenizer)}"

    def find_reason(self, question: str, system: str) -> Rejected | None:
        """Return the rejection of a question of `max_length` tokens or more."""
        length = len(self.student.encode_text_prompt(question, system))
        if self.max_length is None or length < self.max_length:
            return None
        return Rejected(
            "questions", "too_long", f"its written prompt is {length} tokens long, max_length {self.max_length}"
        )


def describe_rejected(rejected: Mapping[str, Rejected]) -> str:
    """Return a line for every rejected row; empty for none."""
    return list_rows([f"row {row_id}: {entry.detail or entry.code}" for row_id, entry in rejected.items()])
