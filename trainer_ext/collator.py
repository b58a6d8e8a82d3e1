"""Questions in, one batch of pairs out: a student row per question and channel, what the teacher needs per question.

Student rows come channel by channel: all text rows, then all speech rows; in a run with speech every batch has a speech
row, if only a silent one that nothing is learned from. Keys are the student's own input names,
`labels`, and

    channel             B integers, indices into CHANNELS
    question_index     B integers, which question a student row asks
    response_lengths    Q integers, response tokens of every question
    example_ids             Q strings, for naming a bad row
    teacher_*           what the teacher's reader encodes; absent without a teacher

Short ones are lists, which cost less than tensors on their way from a worker.
"""

from typing import Any

import numpy as np

from data_builders.audio import decode_speech
from data_builders.schema import CHANNELS, RESPONSE_COLUMN, SPEECH_RATE_HZ
from trainer_ext.loss.alignment import pad_rows
from trainer_ext.teachers.base import Reader

SILENT_SAMPLES = SPEECH_RATE_HZ // 10  # two audio tokens


class PairCollator:
    """Encodes rows of the data contract into batches.

    Args:
        family: the student's family.
        teacher: what the teacher reads; None where there is none.
        channels: which channels this run trains; a row trains those that it names too.
        hard_targets: "teacher" or "gold".
        max_length: longest student row in tokens; a longer one is an error, never cut.
        padding_side: "right" or "left"; the loss does not depend on it.
    """

    def __init__(
        self,
        family: Any,
        teacher: Reader | None,
        channels: tuple[str, ...] = CHANNELS,
        hard_targets: str = "teacher",
        max_length: int | None = None,
        padding_side: str = "right",
    ) -> None:
        self.family = family
        self.teacher = teacher
        self.channels = channels
        self.response_column = RESPONSE_COLUMN[hard_targets]
        self.max_length = max_length
        self.padding_side = padding_side

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        answers = [self.family.encode_response(row[self.response_column]) for row in rows]
        prompts: list[list[int]] = []
        responses: list[list[int]] = []
        clips = []
        questions: list[int] = []
        channel_of_row: list[int] = []
        for index, channel in enumerate(CHANNELS):
            for question, row in enumerate(rows):
                if channel not in self.channels or channel not in row["channels"]:
                    continue
                if channel == "t2t":
                    prompts.append(self.family.encode_text_prompt(row["question"], row["system"]))
                else:
                    clips.append(decode_speech(row["speech"], row["id"]))
                    prompts.append(self.family.encode_speech_prompt(len(clips[-1]), row["system"]))
                responses.append(answers[question])
                questions.append(question)
                channel_of_row.append(index)
                check_length(
                    row["id"], channel, len(prompts[-1]) + len(responses[-1]), self.max_length
                )
        if "s2t" in self.channels and not clips:
            # Sharded training hangs when one process runs the audio tower and another does not: a moment of silence,
            # answered by nothing, so that every batch of the run is heard.
            clips.append(np.zeros(SILENT_SAMPLES, dtype=np.float32))
            prompts.append(self.family.encode_speech_prompt(SILENT_SAMPLES, ""))
            responses.append([])
            questions.append(0)
            channel_of_row.append(CHANNELS.index("s2t"))
        batch: dict[str, Any] = {
            **pad_rows(prompts, responses, self.family.tokenizer.pad_token_id, self.padding_side),
            **self.family.extract_features(clips),
            "channel": channel_of_row,
            "question_index": questions,
            "response_lengths": [len(answer) for answer in answers],
            "example_ids": [row["id"] for row in rows],
        }
        if self.teacher is not None:
            batch |= self.teacher.encode(rows, answers, self.padding_side)
        return batch


def check_length(row_id: str, channel: str, length: int, max_length: int | None) -> None:
    """Refuse a row that is too long to be trained on whole."""
    if max_length is not None and length > max_length:
        raise ValueError(
            f"row {row_id}: its {channel} prompt and response are {length} tokens long, more than "
            f"max_length={max_length}. Raise max_length or leave the row out; cutting would go through audio "
            "tokens or the answer."
        )
