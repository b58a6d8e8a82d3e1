"""Soft targets read from disk as a teacher: no model in memory, and the teacher may have been of any size.

`recipes/cache_teacher.py` makes the table; its columns are in data_builders/schema.py.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset, load_from_disk
from torch import Tensor, nn

from data_builders.chat import hash_question, hash_tokens, hash_vocabulary
from data_builders.hub.ids import split_revision
from data_builders.schema import SOFT_TARGET_FEATURES
from trainer_ext.loss.teacher_targets import StoredTargets
from trainer_ext.students.base import StudentEncoder

CHECKED_ROWS = 1_000  # at a time
ROUNDING = 1e-2  # of log-probabilities in float16
# Columns with one value in all rows of a table.
SETTINGS = ("teacher", "scoring_backend", "tokenizer_hash", "vocab_size", "k", "temperatures")


class SoftTargets:
    """The table of soft targets as a `TeacherEncoder`: rows by id.

    Args:
        table: with the columns of SOFT_TARGET_FEATURES.
        source: its name, for messages.
        student: must share tokenizer and vocabulary with the table.
        temperature: the run's.
        k: the kept ids per token that the run expects.
        teacher: model @ revision that the run names; None for any.

    Raises:
        ValueError: the table has other columns, mixes settings, or was made for another run; the message names the
            difference.
    """

    def __init__(
        self,
        table: Dataset,
        source: str,
        student: StudentEncoder,
        temperature: float,
        k: int,
        teacher: str | None = None,
    ) -> None:
        if missing := [name for name in SOFT_TARGET_FEATURES if name not in table.column_names]:
            raise ValueError(f"{source} holds no soft targets: it has no column {', '.join(missing)}")
        if wrong := [name for name, feature in SOFT_TARGET_FEATURES.items() if table.features[name] != feature]:
            raise ValueError(
                f"{source} holds no soft targets: column {wrong[0]} has the type {table.features[wrong[0]]}"
            )
        self.source = source
        self.settings = read_settings(table, source)
        self._check("temperature", temperature, self.settings["temperatures"])
        self._check("soft_targets_k", k, [self.settings["k"]])
        self.check_student(student)
        if teacher is not None:
            self._check("teacher", teacher, [self.settings["teacher"]])
        self.temperature = temperature
        temperatures = self.settings["temperatures"]
        self.tail = next(i for i, tau in enumerate(temperatures) if is_same(tau, temperature))
        self.lengths = check_arrays(table, self.settings, source)
        self.table = table.with_format("numpy")
        self.number_of_row = {row_id: number for number, row_id in enumerate(table["id"])}
        self.hashes = list(zip(table["question_hash"], table["response_hash"], strict=True))

    @classmethod
    def from_pretrained(cls, name_or_path: str, **settings: Any) -> "SoftTargets":
        """Load a folder of `cache_teacher.py`, or a data set of the Hub (user/name, user/name@revision).

        Keyword arguments are those of the class.

        Raises:
            ValueError: neither exists, or its soft targets do not fit the run.
        """
        on_disk = Path(name_or_path).is_dir()
        try:
            name, revision = split_revision(name_or_path)
            table = load_from_disk(name) if on_disk else load_dataset(name, split="train", revision=revision)
        except (OSError, ValueError) as error:  # no such folder, no such repository, no network
            raise ValueError(
                f"there are no soft targets in {name_or_path} ({error}): make them by `accelerate launch "
                "recipes/cache_teacher.py` with this run's config, which runs the teacher over the data once"
            ) from error
        return cls(table, name_or_path, **settings)

    def check_student(self, student: StudentEncoder) -> None:
        """Raise ValueError if the soft targets are over another vocabulary than the student's."""
        self._check("student's tokenizer", hash_vocabulary(student.tokenizer), [self.settings["tokenizer_hash"]])
        if self.settings["vocab_size"] > student.vocab_size:
            raise ValueError(
                f"{self.source} was made over {self.settings['vocab_size']} vocabulary rows, but the student has "
                f"{student.vocab_size}: make it again with this student's config"
            )

    def check_row(self, row: Mapping[str, Any], response: str, student_ids: list[int]) -> None:
        """Raise ValueError if nothing is stored for the row, or for another question or response."""
        name = f"row {row['id']}"
        if row["id"] not in self.number_of_row:
            raise ValueError(
                f"{name}: {self.source} has no soft targets for it. Run recipes/cache_teacher.py again with this "
                "run's config: rows that are there already cost nothing"
            )
        question_hash, response_hash = self.hashes[self.number_of_row[row["id"]]]
        if question_hash != hash_question(row["question"], row["system"]):
            raise ValueError(
                f"{name}: the soft targets in {self.source} are those of another question or system prompt. Make them "
                "again with this run's data"
            )
        if response_hash != hash_tokens(student_ids):
            raise ValueError(
                f"{name}: the soft targets in {self.source} are those of another response, or of another tokenizer's "
                "tokens. Make them again with this run's data and hard_targets"
            )

        if self.lengths[self.number_of_row[row["id"]]] != len(student_ids):
            raise ValueError(f"{name}: {self.source} is damaged: it has soft targets for another number of tokens")

    def encode(self, rows: list[dict[str, Any]], responses: list[list[int]], padding_side: str) -> dict[str, Tensor]:
        """Return `teacher_ids`, `teacher_log_probs` (M, k) and `teacher_log_tails` (M,), question after question.

        The last two travel as the bits of float16 and float32 in integers: DeepSpeed and FSDP cast the floating-point
        inputs of a bfloat16 run to bfloat16, which has ten times the rounding error of float16.
        """
        cells = [self.table[self.number_of_row[row["id"]]] for row in rows]
        low, high, log_probs = (
            np.concatenate([cell[name] for cell in cells]).reshape(-1, self.settings["k"])
            for name in ("ids_low", "ids_high", "log_probs")
        )
        tails = np.concatenate([cell["log_tails"] for cell in cells])
        tails = tails.reshape(-1, len(self.settings["temperatures"]))[:, self.tail]
        return {
            "teacher_ids": torch.from_numpy(low.astype(np.int64) + (high.astype(np.int64) << 16)),
            "teacher_log_probs": torch.from_numpy(log_probs.astype(np.float16).view(np.int16)),
            "teacher_log_tails": torch.from_numpy(tails.astype(np.float32).view(np.int32)),
        }

    def _check(self, name: str, wanted: Any, stored: list[Any]) -> None:
        if not any(is_same(wanted, value) for value in stored):
            raise ValueError(
                f"{self.source} was made for another {name}: the run has {wanted}, the soft targets "
                f"{', '.join(map(str, stored))}. Make them again with this run's config, or change the config"
            )


class StoredTeacher:
    """Soft targets as a teacher."""

    kind = "stored"

    def __init__(self, encoder: SoftTargets) -> None:
        self.encoder = encoder

    def describe(self) -> dict[str, Any]:
        return dict(self.encoder.settings)

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """Raise ValueError if the table is read at another temperature than the run's."""
        if not is_same(self.encoder.temperature, temperature):
            raise ValueError(
                f"the soft targets are read at temperature {self.encoder.temperature}, the run's is {temperature}"
            )

    def targets(self, teacher_inputs: dict[str, Tensor], teacher_index: Tensor) -> StoredTargets:
        return StoredTargets(
            teacher_index,
            teacher_inputs["teacher_ids"],
            teacher_inputs["teacher_log_probs"].view(torch.float16),
            teacher_inputs["teacher_log_tails"].view(torch.float32),
            self.encoder.settings["vocab_size"],
        )


def read_settings(table: Dataset, source: str) -> dict[str, Any]:
    """Return the settings that all rows of a table share.

    Raises:
        ValueError: there are no rows, or they have different settings.
    """
    kinds = {tuple(map(str, row.values())): row for row in table.select_columns(list(SETTINGS))}
    if len(kinds) != 1:
        raise ValueError(
            f"{source} mixes soft targets of {len(kinds)} settings ({', '.join(SETTINGS)}); a table has one"
        )
    return next(iter(kinds.values()))


def check_arrays(table: Dataset, settings: Mapping[str, Any], source: str) -> np.ndarray:
    """Return the tokens (rows,) that each row of a table has soft targets for; reads the whole table once.

    Raises:
        ValueError: arrays of one row do not fit each other, or values are no distribution over the vocabulary.
    """
    fault = f"{source} is damaged; make it again by recipes/cache_teacher.py: "
    if None in settings.values() or not 1 <= settings["k"] <= settings["vocab_size"]:
        raise ValueError(f"{fault}k is {settings['k']}, vocab_size {settings['vocab_size']}")
    widths = dict.fromkeys(("ids_low", "ids_high", "log_probs"), settings["k"])
    widths["log_tails"] = len(settings["temperatures"])
    found = []
    for batch in table.select_columns(list(widths)).with_format("arrow").iter(CHECKED_ROWS):
        columns = {name: batch[name].combine_chunks() for name in widths}
        values = {name: column.flatten().to_numpy(zero_copy_only=False) for name, column in columns.items()}
        lengths = {name: np.diff(column.offsets.to_numpy()) for name, column in columns.items()}
        tokens = lengths["log_tails"] // widths["log_tails"]
        if any((lengths[name] != tokens * width).any() for name, width in widths.items()):
            raise ValueError(f"{fault}a row has another number of ids than of log-probabilities")
        if any(column.flatten().null_count for column in columns.values()):
            raise ValueError(f"{fault}a value is missing")
        ids = values["ids_low"].astype(np.int64) + (values["ids_high"].astype(np.int64) << 16)
        if ids.max(initial=0) >= settings["vocab_size"]:
            raise ValueError(f"{fault}id {ids.max()} is none of its {settings['vocab_size']}")
        for name in ("log_probs", "log_tails"):
            if not (values[name] <= ROUNDING).all():  # NaN too
                raise ValueError(f"{fault}{name} has values that are no log-probabilities")
        found.append(tokens)
    return np.concatenate(found)


def is_same(a: Any, b: Any) -> bool:
    """Compare for equality; numbers within float32 precision."""
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b
