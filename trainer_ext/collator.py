"""Collate questions into one batch of pairs: a student row per question and channel, the teacher's inputs per question.

Student rows come channel by channel: all text rows, all speech rows, all rows about sounds. If clips are trained, a
batch without one gets a silent unlabelled clip, so every rank runs the audio tower. The teacher reads the questions of
t2t and s2t; a2t has the untouched student as its teacher, which hears what the student hears. Keys are the student's
own input names, `labels`, and

    channel_index       B integers, indices into CHANNELS
    question_index      B integers, the question of each student row
    response_lengths    Q integers, response tokens of every question that the teacher reads; 0 for others
    example_ids         Q strings, ids of the rows, for error messages
    teacher_*           the teacher encoder's part; absent without a teacher, or without a question for it

Short ones are lists, which are cheaper than tensors to send from a worker.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_builders.schema import (
    CHANNELS,
    CLIP_COLUMNS,
    PAIR_CHANNELS,
    RESPONSE_COLUMN,
    SOUND_CHANNEL,
    SPEECH_RATE_HZ,
)
from trainer_ext.loss.alignment import pad_rows
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.encode_row import decode_clip, encode_row
from trainer_ext.teachers.base import TeacherEncoder

SILENT_SAMPLES = SPEECH_RATE_HZ // 10  # two audio tokens
MEASURED_WITHIN_SECONDS = 0.1  # others round, or count a codec's padding


class PairCollator:
    """Encodes rows of the data contract into batches.

    Args:
        student: encodes prompts, responses and clips.
        teacher: encodes the teacher's inputs; None without a teacher.
        channels: channels that this run trains; a row trains those that it names too.
        hard_targets: "teacher" or "gold".
        max_length: longest student row in tokens; a longer one is an error, never cut.
    """

    def __init__(
        self,
        student: StudentEncoder,
        teacher: TeacherEncoder | None,
        channels: tuple[str, ...] = PAIR_CHANNELS,
        hard_targets: str = "teacher",
        max_length: int | None = None,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.channels = channels
        self.response_column = RESPONSE_COLUMN[hard_targets]
        self.max_length = max_length
        self.padding_side = "right"  # the loss does not depend on it

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        responses = [self.student.encode_response(row[self.response_column]) for row in rows]
        prompts: list[list[int]] = []
        clips: list[np.ndarray] = []
        questions: list[int] = []
        channel_index: list[int] = []
        for index, channel in enumerate(CHANNELS):
            for question, row in enumerate(rows):
                if channel not in self.channels or channel not in row["channels"]:
                    continue
                clip = decode_clip(row, channel)
                if clip is not None:
                    check_clip_length(row, channel, len(clip) / SPEECH_RATE_HZ, self.student.max_speech_seconds)
                    clips.append(clip)
                prompts.append(encode_row(self.student, row, channel, 0 if clip is None else len(clip)))
                length = len(prompts[-1]) + len(responses[question])
                check_length(row["id"], channel, length, self.max_length)
                questions.append(question)
                channel_index.append(index)
        row_responses = [responses[question] for question in questions]
        if not clips and CLIP_COLUMNS.keys() & set(self.channels):
            clips.append(np.zeros(SILENT_SAMPLES, dtype=np.float32))
            prompts.append(self.student.encode_speech_prompt(SILENT_SAMPLES, ""))
            row_responses.append([])
            questions.append(0)
            channel_index.append(CHANNELS.index("s2t"))
        sounds = {questions[i] for i, index in enumerate(channel_index) if CHANNELS[index] == SOUND_CHANNEL}
        taught = [i for i in range(len(rows)) if i not in sounds]
        pad_id = self.student.tokenizer.pad_token_id
        batch: dict[str, Any] = {
            **pad_rows(prompts, row_responses, pad_id, self.padding_side),
            **self.student.extract_features(clips),
            "channel_index": channel_index,
            "question_index": questions,
            "response_lengths": [0 if i in sounds else len(response) for i, response in enumerate(responses)],
            "example_ids": [row["id"] for row in rows],
        }
        if self.teacher is not None and taught:
            batch |= self.teacher.encode([rows[i] for i in taught], [responses[i] for i in taught], self.padding_side)
        return batch


def check_clip_length(row: Mapping[str, Any], channel: str, seconds: float, max_seconds: float) -> None:
    """Raise ValueError for a clip that is too long for the student, or not as long as its row says."""
    clip, column = CLIP_COLUMNS[channel]
    if seconds > max_seconds:
        raise ValueError(
            f"row {row['id']}: its {clip} is {seconds:.1f} s long, and the student takes {max_seconds:g} s at most; "
            "leave the row out (a clip is never cut)"
        )
    stated = row[column]
    if not is_as_long_as_stated(seconds, stated):
        raise ValueError(
            f"row {row['id']}: its {clip} is {seconds:.2f} s long, and {column} says {stated:.2f}: the clip is "
            f"cut, or of another row. Memory was planned and rows were checked by {column}; correct it"
        )


def is_as_long_as_stated(seconds: float, stated: float) -> bool:
    """Tell whether a clip's measured length is the stated one, but for rounding and a codec's padding."""
    return abs(seconds - stated) <= max(0.05 * stated, MEASURED_WITHIN_SECONDS)


def check_length(row_id: str, channel: str, length: int, max_length: int | None) -> None:
    """Raise ValueError for a row of more than `max_length` tokens."""
    if max_length is not None and length > max_length:
        raise ValueError(
            f"row {row_id}: its {channel} prompt and response are {length} tokens long, more than "
            f"max_length={max_length}. Raise max_length or leave the row out; cutting would go through audio "
            "tokens or the answer."
        )
