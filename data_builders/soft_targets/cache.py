"""Soft targets: a teacher's k likeliest ids at every response token, made once, read at every step of every run.

In: rows with answers, and a scorer (a model in memory, or a server). Out: one table beside the data set, its columns in
schema.py. Every scored row is journaled, so a killed run goes on where it was, and several processes share the rows.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Dataset, load_from_disk
from safetensors.numpy import load, save
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_builders.chat import (
    encode_answer,
    encode_question,
    hash_question,
    hash_tokens,
    hash_vocabulary,
)
from data_builders.schema import SOFT_TARGET_FEATURES, SoftTarget
from data_builders.storage.call_cache import CallCache, content_key

ROWS_PER_WRITE = 256


@dataclass(frozen=True)
class TeacherInput:
    """One row as the teacher reads it."""

    id: str
    question: str  # its hash
    prompt_ids: list[int]
    response_ids: list[int]


class Scorer(Protocol):
    """Who thinks about the response tokens: `trainer_ext.teachers.top_k_scorer` or `logprob_server`."""

    def score(self, readings: list[TeacherInput]) -> list[SoftTarget]:
        """One for each reading, in their order."""
        ...


def read_rows(
    rows: Dataset, response_column: str, tokenizer: PreTrainedTokenizerBase
) -> list[TeacherInput]:
    """Every row as the teacher reads it; rows without a response are left out.

    Raises:
        ValueError: no row has a response.
    """
    readings = [
        TeacherInput(
            row["id"],
            hash_question(row["question"], row["system"]),
            encode_question(tokenizer, row["question"], row["system"]),
            encode_answer(tokenizer, row[response_column]),
        )
        for row in rows.select_columns(["id", "question", "system", response_column])
        if row[response_column]
    ]
    if not readings:
        raise ValueError(f"no row of the data set has a {response_column}")
    return readings


def make_settings(
    teacher: str,
    scoring_backend: str,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    k: int,
    temperatures: list[float],
) -> dict[str, Any]:
    """What a table is made with, by the names of its columns.

    Raises:
        ValueError: k is more than there are ids.
    """
    if k > vocab_size:
        raise ValueError(
            f"soft_targets_k is {k}, but teacher and student share {vocab_size} vocabulary rows"
        )
    return {
        "teacher": teacher,
        "scoring_backend": scoring_backend,
        "tokenizer": hash_vocabulary(tokenizer),
        "vocab_size": vocab_size,
        "k": k,
        "temperatures": temperatures,
    }


def cache_soft_targets(
    readings: list[TeacherInput],
    folder: Path,
    settings: dict[str, Any],
    load_scorer: Callable[[], Scorer],
    batch_size: int,
) -> dict[str, Any]:
    """Score what no journal holds yet and write the table; returns what it amounts to.

    All processes of a run call it; the rows are dealt among them, and the main one writes the table. The folder
    appears by a rename; `folder`.journal keeps every scored row.

    Args:
        load_scorer: called only where something is missing.

    Raises:
        ValueError: `folder` holds a table of other settings.
    """
    state = PartialState()
    check_folder(folder, settings)
    place = folder.with_name(f"{folder.name}.journal")
    keys = [make_key(reading, settings) for reading in readings]
    own = CallCache(place / f"{state.process_index}.sqlite")
    todo = dict(zip(keys, readings, strict=True))
    missing = list(todo)
    for file in sorted(place.glob("*.sqlite")):
        journal = CallCache(file)
        missing = journal.missing(missing)
        journal.close()
    state.wait_for_everyone()  # nobody writes before all have seen what is missing
    # Longest first: what does not fit the card fails at once, and the time left is never too rosy.
    mine = sorted(missing, key=lambda key: -len(todo[key].prompt_ids) - len(todo[key].response_ids))
    mine = mine[state.process_index :: state.num_processes]
    if mine:
        scorer = load_scorer()
        with tqdm(
            total=len(mine), desc="soft targets", unit="row", disable=not state.is_main_process
        ) as progress:
            for start in range(0, len(mine), batch_size):
                some = mine[start : start + batch_size]
                for key, target in zip(
                    some, scorer.score([todo[key] for key in some]), strict=True
                ):
                    own.put(key, pack(target))
                progress.update(len(some))
    own.close()
    state.wait_for_everyone()
    if state.is_main_process and not (folder.exists() and table_matches(folder, readings)):
        write_table(readings, keys, folder, place, settings)
    state.wait_for_everyone()
    return {**describe_table(load_from_disk(str(folder))), "scored": len(missing)}


def make_key(reading: TeacherInput, settings: dict[str, Any]) -> str:
    return content_key("soft targets", settings, reading.prompt_ids, reading.response_ids)


def check_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to replace a table of other settings, which may have taken a night."""
    if not folder.exists():
        return
    there = load_from_disk(str(folder))
    found = there.select_columns(list(settings))[0] if len(there) else settings
    for name, wanted in settings.items():
        if not np.array_equal(
            np.asarray(found[name]), np.asarray(wanted, np.asarray(found[name]).dtype)
        ):
            raise ValueError(
                f"{folder} holds soft targets with {name} {found[name]}, and this run wants {wanted}: name another "
                "folder by soft_targets_path, or delete this one"
            )


def table_matches(folder: Path, readings: list[TeacherInput]) -> bool:
    """Whether the table there has these rows, with these prompts and responses, and no others."""
    there = load_from_disk(str(folder)).select_columns(["id", "prompt", "response"])
    return [tuple(row.values()) for row in there] == [
        (reading.id, hash_tokens(reading.prompt_ids), hash_tokens(reading.response_ids))
        for reading in readings
    ]


def pack(target: SoftTarget) -> bytes:
    """As the columns of the table keep it. Log-probabilities below what float16 holds are as good as impossible."""
    lowest = np.finfo(np.float16).min
    return save(
        {
            "ids_low": (target.ids & 0xFFFF).astype(np.uint16),
            "ids_high": (target.ids >> 16).astype(np.uint8),
            "log_probs": np.maximum(target.log_probs, lowest).astype(np.float16),
            "log_tails": target.log_tails.astype(np.float32),
        }
    )


def write_table(
    readings: list[TeacherInput],
    keys: list[str],
    folder: Path,
    place: Path,
    settings: dict[str, Any],
) -> None:
    """Stream all rows from the journals into a table beside `folder`, then rename."""
    for left_by_a_kill in folder.parent.glob(f"{folder.name}.*.partial"):
        shutil.rmtree(left_by_a_kill)
    aside = Path(mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    stream = aside / "rows.arrow"
    schema = SOFT_TARGET_FEATURES.arrow_schema
    with pa.ipc.new_stream(str(stream), schema) as writer:
        for batch in iterate_columns(readings, keys, place, settings):
            writer.write_batch(pa.RecordBatch.from_pydict(batch, schema=schema))
    Dataset.from_file(str(stream)).save_to_disk(str(aside / "table"))
    if folder.exists():
        folder.rename(aside / "replaced")
    (aside / "table").rename(folder)
    shutil.rmtree(aside)


def iterate_columns(
    readings: list[TeacherInput], keys: list[str], place: Path, settings: dict[str, Any]
) -> Iterator[dict[str, list[Any]]]:
    """The table's columns, some rows at a time."""
    journals = [CallCache(file) for file in sorted(place.glob("*.sqlite"))]
    for start in range(0, len(readings), ROWS_PER_WRITE):
        columns: dict[str, list[Any]] = {name: [] for name in SOFT_TARGET_FEATURES}
        for reading, key in zip(
            readings[start : start + ROWS_PER_WRITE],
            keys[start : start + ROWS_PER_WRITE],
            strict=True,
        ):
            packed = next(found for journal in journals if (found := journal.get(key)) is not None)
            arrays = {name: array.reshape(-1) for name, array in load(packed).items()}
            cells = {
                "id": reading.id,
                "question": reading.question,
                "prompt": hash_tokens(reading.prompt_ids),
                "response": hash_tokens(reading.response_ids),
                **settings,
                **arrays,
            }
            for name, column in columns.items():
                column.append(cells[name])
        yield columns
    for journal in journals:
        journal.close()


def describe_table(table: Dataset) -> dict[str, Any]:
    """Tokens, bytes a token, and the mean mass of the kept ids at every temperature."""
    first = table.select_columns(["k", "temperatures"])[0]
    tails = table.with_format("arrow")[:]["log_tails"].combine_chunks().flatten().to_numpy()
    tails = tails.reshape(-1, len(first["temperatures"]))
    bytes_of_tokens = len(tails) * (5 * first["k"] + 4 * tails.shape[1])
    return {
        "rows": len(table),
        "tokens": len(tails),
        "bytes_per_token": bytes_of_tokens / len(tails),
        "bytes_per_kept_id": bytes_of_tokens / len(tails) / first["k"],
        "kept_mass": {
            tau: float(-np.expm1(column.astype(np.float64)).mean())
            for tau, column in zip(first["temperatures"], tails.T, strict=True)
        },
    }
