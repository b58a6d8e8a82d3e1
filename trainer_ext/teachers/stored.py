"""What a teacher thought, read from disk: no model in memory, and the teacher may have been any size.

`recipes/cache_teacher.py` makes the table; its columns are in data_builders/schema.py.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset, load_from_disk
from torch import Tensor, nn

from data_builders.chat import hash_question, hash_tokens, hash_vocabulary
from data_builders.schema import SOFT_TARGET_FEATURES
from trainer_ext.loss.teacher_targets import StoredTargets

# What is the same in every row.
SETTINGS = ("teacher", "scoring_backend", "tokenizer", "vocab_size", "k", "temperatures")


class SoftTargets:
    """The table of soft targets as a reader: rows by id.

    Args:
        table: with the columns of SOFT_TARGET_FEATURES.
        source: its name, for messages.
        family: the student's family, whose tokenizer and vocabulary it must fit.
        temperature: the run's.
        k: how many ids a token the run expects.
        teacher: model @ revision that the run names; None if it names none.

    Raises:
        ValueError: the table is none of soft targets, mixes settings, or was made for another run; the message
            names what differs.
    """

    def __init__(
        self,
        table: Dataset,
        source: str,
        family: Any,
        temperature: float,
        k: int,
        teacher: str | None = None,
    ) -> None:
        if missing := [name for name in SOFT_TARGET_FEATURES if name not in table.column_names]:
            raise ValueError(
                f"{source} holds no soft targets: it has no column {', '.join(missing)}"
            )
        self.source = source
        self.settings = read_settings(table, source)
        self._check("temperature", temperature, self.settings["temperatures"])
        self._check("soft_targets_k", k, [self.settings["k"]])
        self._check(
            "student's tokenizer", hash_vocabulary(family.tokenizer), [self.settings["tokenizer"]]
        )
        if teacher is not None:
            self._check("teacher", teacher, [self.settings["teacher"]])
        if self.settings["vocab_size"] > family.vocab_size:
            raise ValueError(
                f"{source} was made over {self.settings['vocab_size']} vocabulary rows, but the student has "
                f"{family.vocab_size}: make it again with this student's config"
            )
        self.temperature = temperature
        self.tail = next(
            i for i, tau in enumerate(self.settings["temperatures"]) if is_same(tau, temperature)
        )
        self.table = table.with_format("numpy")
        self.number_of_row = {row_id: number for number, row_id in enumerate(table["id"])}
        self.made_for = list(zip(table["question"], table["response"], strict=True))

    @classmethod
    def from_pretrained(cls, name_or_path: str, **settings: Any) -> "SoftTargets":
        """Read a folder of `cache_teacher.py`, or a data set of the Hub.

        Raises:
            ValueError: there is neither, or what is there does not fit the run.
        """
        on_disk = Path(name_or_path).is_dir()
        try:
            table = (
                load_from_disk(name_or_path)
                if on_disk
                else load_dataset(name_or_path, split="train")
            )
        except (OSError, ValueError) as error:  # no such folder, no such repository, no network
            raise ValueError(
                f"there are no soft targets in {name_or_path} ({error}): make them by `accelerate launch "
                "recipes/cache_teacher.py` with this run's config, which takes the teacher through the data once"
            ) from error
        return cls(table, name_or_path, **settings)

    def check_row(self, row: dict[str, Any], response: str, student_ids: list[int]) -> None:
        """
        Raises:
            ValueError: nothing is stored for the row, or it is of another question or response.
        """
        name = f"row {row['id']}"
        if row["id"] not in self.number_of_row:
            raise ValueError(
                f"{name}: {self.source} has no soft targets for it. Run recipes/cache_teacher.py again with this "
                "run's config: what is there already costs nothing"
            )
        question, answered = self.made_for[self.number_of_row[row["id"]]]
        if question != hash_question(row["question"], row["system"]):
            raise ValueError(
                f"{name}: the soft targets in {self.source} are those of another question or system prompt. Make them "
                "again with this run's data"
            )
        if answered != hash_tokens(student_ids):
            raise ValueError(
                f"{name}: the soft targets in {self.source} are those of another response, or of one that another "
                "tokenizer wrote. Make them again with this run's data and hard_targets"
            )

    def encode(
        self, rows: list[dict[str, Any]], responses: list[list[int]], padding_side: str
    ) -> dict[str, Tensor]:
        """`teacher_ids`, `teacher_log_probs` (M, k) and `teacher_log_tails` (M,), question after question.

        The last two travel as the bits of float16 and float32 in integers: DeepSpeed and FSDP cast the floating
        inputs of a bfloat16 run to bfloat16, which would cost ten times what float16 costs.
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

    def _check(self, name: str, ours: Any, theirs: list[Any]) -> None:
        if not any(is_same(ours, their) for their in theirs):
            raise ValueError(
                f"{self.source} was made for another {name}: the run has {ours}, the soft targets "
                f"{', '.join(map(str, theirs))}. Make them again with this run's config, or change the config"
            )


class StoredTeacher:
    """Soft targets as a teacher."""

    kind = "stored"

    def __init__(self, reader: SoftTargets) -> None:
        self.reader = reader

    def attach(self, student: nn.Module, device: torch.device, temperature: float) -> None:
        """
        Raises:
            ValueError: the table is read at another temperature than the run's.
        """
        if not is_same(self.reader.temperature, temperature):
            raise ValueError(
                f"the soft targets are read at temperature {self.reader.temperature}, the run's is {temperature}"
            )

    def signal(self, asked: dict[str, Tensor], rows: Tensor) -> StoredTargets:
        return StoredTargets(
            rows,
            asked["teacher_ids"],
            asked["teacher_log_probs"].view(torch.float16),
            asked["teacher_log_tails"].view(torch.float32),
            self.reader.settings["vocab_size"],
        )


def read_settings(table: Dataset, source: str) -> dict[str, Any]:
    """The settings all rows of a table share.

    Raises:
        ValueError: there are no rows, or they were made with unlike settings.
    """
    kinds = {tuple(map(str, row.values())): row for row in table.select_columns(list(SETTINGS))}
    if len(kinds) != 1:
        raise ValueError(
            f"{source} mixes soft targets of {len(kinds)} settings ({', '.join(SETTINGS)}); a table has one"
        )
    return next(iter(kinds.values()))


def is_same(one: Any, other: Any) -> bool:
    """Equality, for numbers within what float32 keeps."""
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other
