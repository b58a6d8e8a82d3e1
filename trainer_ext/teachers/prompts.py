"""Teacher inputs for teachers that are models: every question once, in writing, with the response to score."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_builders.chat import hash_vocabulary
from data_builders.chat_encoder import ChatEncoder
from data_builders.outcomes import Rejected, RowRejected
from data_builders.pretrained import load_tokenizer
from trainer_ext.loss.alignment import pad_rows
from trainer_ext.students.base import StudentEncoder


class TeacherPromptEncoder:
    """Encodes questions with the teacher's own tokenizer and chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.chat = ChatEncoder(tokenizer)

    @classmethod
    def from_pretrained(cls, name_or_path: str, revision: str | None = None) -> "TeacherPromptEncoder":
        return cls(load_tokenizer(name_or_path, revision))

    def check_student(self, student: StudentEncoder) -> None:
        """Raise ValueError if the learned tokens of teacher and student have different ids."""
        if hash_vocabulary(self.tokenizer) != hash_vocabulary(student.tokenizer):
            raise ValueError(
                f"the teacher's vocabulary ({self.tokenizer.name_or_path}) is not the student's "
                f"({student.tokenizer.name_or_path}). Distillation compares token by token: choose a teacher of the "
                "student's own tokenizer family, or train with teacher_kind 'none'"
            )

    def check_row(self, row: Mapping[str, Any], response: str, student_ids: list[int]) -> None:
        """Raise RowRejected if the two tokenizers encode the response differently: tokens could not be compared."""
        ids = self.chat.encode_response(response)
        if ids == student_ids:
            return
        length = min(len(ids), len(student_ids))
        at = next((i for i in range(length) if ids[i] != student_ids[i]), length)
        teacher_token = self.tokenizer.convert_ids_to_tokens(ids[at]) if at < len(ids) else "nothing"
        detail = (
            f"the teacher's and the student's tokenizers disagree on response token {at}: "
            f"the student's id {student_ids[at] if at < len(student_ids) else 'none'}, "
            f"the teacher's {ids[at] if at < len(ids) else 'none'} ({teacher_token!r}). Distillation compares token by "
            "token: choose a teacher of the student's own tokenizer family, or train with teacher_kind 'none'"
        )
        raise RowRejected(row["id"], Rejected("training", "other_tokens", detail))

    def encode(self, rows: list[dict[str, Any]], responses: list[list[int]], padding_side: str) -> dict[str, Tensor]:
        return pad_prompts(self.chat.encode_prompt, rows, responses, self.tokenizer.pad_token_id, padding_side)


class StudentPromptEncoder:
    """Encodes questions as the student itself reads them in the channel t2t."""

    def __init__(self, student: StudentEncoder) -> None:
        self.student = student

    def check_student(self, student: StudentEncoder) -> None:
        """Accept the student: it is its own teacher."""

    def check_row(self, row: Mapping[str, Any], response: str, student_ids: list[int]) -> None:
        """Accept every row: teacher and student share their tokenizer."""

    def encode(self, rows: list[dict[str, Any]], responses: list[list[int]], padding_side: str) -> dict[str, Tensor]:
        pad_id = self.student.tokenizer.pad_token_id
        return pad_prompts(self.student.encode_text_prompt, rows, responses, pad_id, padding_side)


def pad_prompts(
    encode_prompt: Callable[[str, str], list[int]],
    rows: list[dict[str, Any]],
    responses: list[list[int]],
    pad_id: int,
    padding_side: str,
) -> dict[str, Tensor]:
    """Return `teacher_input_ids`, `teacher_attention_mask` and `teacher_labels` of Q questions, (Q, T') each."""
    prompts = [encode_prompt(row["question"], row["system"]) for row in rows]
    padded = pad_rows(prompts, responses, pad_id, padding_side)
    return {f"teacher_{key}": value for key, value in padded.items()}
