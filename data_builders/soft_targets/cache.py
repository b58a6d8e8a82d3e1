"""Soft targets: a teacher's k likeliest ids at every response token, made once, read in every step of every run.

In: rows with answers, and a scorer (a model in memory, or a server). Out: one table with the columns of schema.py.
Every scored row is cached, so a killed run resumes, and several processes share the rows.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, load_from_disk
from safetensors.numpy import load, save
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_builders.chat import TeacherInput, hash_question, hash_tokens, hash_vocabulary
from data_builders.chat_encoder import ChatEncoder
from data_builders.outcomes import TemporaryFailure, list_rows
from data_builders.schema import SOFT_TARGET_FEATURES, SoftTarget
from data_builders.soft_targets.card import write_soft_targets_card
from data_builders.storage.atomic import atomic_folder
from data_builders.storage.call_cache import CallCache, content_key
from data_builders.storage.locks import locked

ROWS_PER_WRITE = 256


# A row's soft targets, or why it has none now.
ScoreOutcome = SoftTarget | ValueError | TemporaryFailure


class Scorer(Protocol):
    """A source of soft targets: `trainer_ext.teachers.top_k_scorer`, or the server in this folder."""

    def score(self, inputs: list[TeacherInput]) -> Sequence[ScoreOutcome]:
        """Return the soft targets of each input, in their order, or why it has none now."""
        ...


def read_inputs(rows: Dataset, response_column: str, tokenizer: PreTrainedTokenizerBase) -> list[TeacherInput]:
    """Encode every row for the teacher; rows without a response are left out.

    Raises:
        ValueError: no row has a response.
    """
    chat = ChatEncoder(tokenizer)
    inputs = [
        TeacherInput(
            row["id"],
            hash_question(row["question"], row["system"]),
            chat.encode_prompt(row["question"], row["system"]),
            chat.encode_response(row[response_column]),
        )
        for row in rows.select_columns(["id", "question", "system", response_column])
        if row[response_column]
    ]
    if not inputs:
        raise ValueError(f"no row of the data set has a {response_column}")
    return inputs


def make_settings(
    teacher: str,
    scoring_backend: str,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    k: int,
    temperatures: list[float],
) -> dict[str, Any]:
    """Return the columns that are equal in all rows of a table.

    Args:
        teacher: model @ revision.
        scoring_backend: "model in <precision>" or "server".
        vocab_size: rows of the vocabulary that teacher and student share.

    Raises:
        ValueError: k is larger than the vocabulary.
    """
    if k > vocab_size:
        raise ValueError(f"soft_targets_k is {k}, but teacher and student share {vocab_size} vocabulary rows")
    return {
        "teacher": teacher,
        "scoring_backend": scoring_backend,
        "tokenizer_hash": hash_vocabulary(tokenizer),
        "vocab_size": vocab_size,
        "k": k,
        "temperatures": temperatures,
    }


def cache_soft_targets(
    inputs: list[TeacherInput],
    folder: Path,
    settings: dict[str, Any],
    load_scorer: Callable[[], Scorer],
    batch_size: int,
) -> dict[str, Any]:
    """Score the rows that no cache holds and write the table; returns its statistics.

    All processes of a run call it and share the rows; the main process writes the table. The folder appears by a
    rename; `<folder>.cache` keeps every scored row.

    Args:
        load_scorer: called only where a row is missing.

    Raises:
        ValueError: `folder` holds a table of other settings.
    """
    state = PartialState()
    cache_folder = locate_cache(folder)
    cache_folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if state.is_main_process:
            stack.enter_context(locked(cache_folder / "cache.lock", f"makes {folder}"))
        state.wait_for_everyone()
        return score_missing(inputs, folder, cache_folder, settings, load_scorer, batch_size)


def locate_cache(folder: Path) -> Path:
    """Return the folder of the caches of a table."""
    return folder.with_name(f"{folder.name}.cache")


def score_missing(
    inputs: list[TeacherInput],
    folder: Path,
    cache_folder: Path,
    settings: dict[str, Any],
    load_scorer: Callable[[], Scorer],
    batch_size: int,
) -> dict[str, Any]:
    """Do the work of `cache_soft_targets` where no other run does it."""
    state = PartialState()
    check_folder(folder, settings)
    keys = [input_key(teacher_input, settings) for teacher_input in inputs]
    own = CallCache(cache_folder / f"{state.process_index}.sqlite")
    input_of = dict(zip(keys, inputs, strict=True))
    missing = list(input_of)
    for file in sorted(cache_folder.glob("*.sqlite")):
        cache = CallCache(file)
        missing = cache.missing(missing)
        cache.close()
    state.wait_for_everyone()  # nobody writes before all processes know the missing rows
    # Longest first: an input that does not fit the GPU fails at once, and the estimated time left never grows.
    ours = sorted(missing, key=lambda key: -count_tokens(input_of[key]))
    ours = ours[state.process_index :: state.num_processes]
    failures: list[str] = []
    if ours:
        scorer = load_scorer()
        with tqdm(total=len(ours), desc="soft targets", unit="row", disable=not state.is_main_process) as progress:
            for start in range(0, len(ours), batch_size):
                batch = ours[start : start + batch_size]
                scored: dict[str, bytes] = {}
                targets = scorer.score([input_of[key] for key in batch])
                for key, target in zip(batch, targets, strict=True):
                    if isinstance(target, SoftTarget):
                        scored[key] = pack(target)
                    else:
                        failures.append(f"row {input_of[key].id}: {target}")
                own.put_all(scored)  # together: each commit waits for the disk, 20 ms
                progress.update(len(batch))
    own.close()
    if failures := gather_object(failures):
        raise ValueError(f"{len(failures)} of {len(missing)} rows have no soft targets:{list_rows(failures)}")
    if state.is_main_process and not (folder.exists() and table_matches(folder, inputs)):
        write_table(inputs, keys, folder, cache_folder, settings)
    state.wait_for_everyone()
    return {**describe_table(load_from_disk(str(folder))), "scored": len(missing)}


def count_tokens(teacher_input: TeacherInput) -> int:
    """Return the tokens of prompt and response."""
    return len(teacher_input.prompt_ids) + len(teacher_input.response_ids)


def input_key(teacher_input: TeacherInput, settings: dict[str, Any]) -> str:
    """Return the cache key: everything a row's soft targets depend on."""
    return content_key("soft targets", settings, teacher_input.prompt_ids, teacher_input.response_ids)


def check_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError for a table made with other settings, instead of replacing it."""
    if not folder.exists():
        return
    table = load_from_disk(str(folder))
    found = table.select_columns(list(settings))[0] if len(table) else settings
    for name, wanted in settings.items():
        present = np.asarray(found[name])
        if not np.array_equal(present, np.asarray(wanted, present.dtype)):
            raise ValueError(
                f"{folder} holds soft targets with {name} {found[name]}, and this run wants {wanted}: name another "
                "folder by soft_targets_path, or delete this one"
            )


def table_matches(folder: Path, inputs: list[TeacherInput]) -> bool:
    """Tell whether the table has exactly these rows, with these prompts and responses."""
    table = load_from_disk(str(folder)).select_columns(["id", "prompt_hash", "response_hash"])
    return [tuple(row.values()) for row in table] == [
        (row.id, hash_tokens(row.prompt_ids), hash_tokens(row.response_ids)) for row in inputs
    ]


def pack(target: SoftTarget) -> bytes:
    """Serialize in the column types of the table. Log-probabilities are clipped at the lowest float16."""
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
    inputs: list[TeacherInput],
    keys: list[str],
    folder: Path,
    cache_folder: Path,
    settings: dict[str, Any],
) -> None:
    """Stream all rows from the caches into the table."""
    schema = SOFT_TARGET_FEATURES.arrow_schema
    with atomic_folder(folder) as temporary:
        stream = temporary / "rows.arrow"
        with pa.ipc.new_stream(str(stream), schema) as writer:
            for batch in iterate_columns(inputs, keys, cache_folder, settings):
                writer.write_batch(pa.RecordBatch.from_pydict(batch, schema=schema))
        Dataset.from_file(str(stream)).save_to_disk(str(temporary / "table"))
        stream.unlink()
        for file in (temporary / "table").iterdir():
            shutil.move(file, temporary)
        (temporary / "table").rmdir()
        write_soft_targets_card(temporary, folder.resolve().name, settings, len(inputs))


def iterate_columns(
    inputs: list[TeacherInput], keys: list[str], cache_folder: Path, settings: dict[str, Any]
) -> Iterator[dict[str, list[Any]]]:
    """Yield the table's columns, ROWS_PER_WRITE rows at a time."""
    caches = [CallCache(file) for file in sorted(cache_folder.glob("*.sqlite"))]
    for start in range(0, len(inputs), ROWS_PER_WRITE):
        columns: dict[str, list[Any]] = {name: [] for name in SOFT_TARGET_FEATURES}
        batch = slice(start, start + ROWS_PER_WRITE)
        for row, key in zip(inputs[batch], keys[batch], strict=True):
            arrays = next(found for cache in caches if (found := cache.read(key, load)) is not None)
            cells = {
                "id": row.id,
                "question_hash": row.question_hash,
                "prompt_hash": hash_tokens(row.prompt_ids),
                "response_hash": hash_tokens(row.response_ids),
                **settings,
                **{name: array.reshape(-1) for name, array in arrays.items()},
            }
            for name, column in columns.items():
                column.append(cells[name])
        yield columns
    for cache in caches:
        cache.close()


def describe_table(table: Dataset) -> dict[str, Any]:
    """Return rows, tokens, bytes per token, and the mean mass of the kept ids at every temperature."""
    first = table.select_columns(["k", "temperatures"])[0]
    tails = table.with_format("arrow")[:]["log_tails"].combine_chunks().flatten().to_numpy()
    tails = tails.reshape(-1, len(first["temperatures"]))
    total_bytes = len(tails) * (5 * first["k"] + 4 * tails.shape[1])
    return {
        "rows": len(table),
        "tokens": len(tails),
        "bytes_per_token": total_bytes / len(tails),
        "bytes_per_kept_id": total_bytes / len(tails) / first["k"],
        "kept_mass": {
            tau: float(-np.expm1(column.astype(np.float64)).mean())
            for tau, column in zip(first["temperatures"], tails.T, strict=True)
        },
    }
