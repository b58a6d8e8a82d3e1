"""Read questions one at a time from a local file or a `datasets` id; nothing is kept in memory or on disk.

In: a JSONL, JSON, CSV, TSV, Parquet or text file, or the id of a data set on the Hub, and a mapping of its columns.
Out: one `SourceQuestion` per row.
"""

import glob
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import HfApi

from data_builders.questions.text_files import READERS, TextTable, open_text_file
from data_builders.schema import PAIR_CHANNELS, check_channels
from data_builders.storage.atomic import hash_file

# Suffix -> loader of `datasets`; text_files.py reads the others.
FILE_LOADERS = {".parquet": "parquet"}
SUFFIXES = (*READERS, *FILE_LOADERS)
FIELDS = ("question", "system", "gold_response", "reference", "source", "source_id", "channels", "split")
# Characters without a sign or a sound: byte order mark, zero-width spaces and joiners around which nobody writes.
INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060"))


class SourceQuestion(TypedDict):
    """A question as its source has it, without answer or speech."""

    source: str
    source_id: str
    split: str | None  # None: the source does not say
    system: str
    question: str
    gold_response: str | None
    reference: str | None
    channels: list[str]


def read_questions(
    name_or_path: str,
    split: str = "train",
    revision: str | None = None,
    columns: list[str] | None = None,
) -> Iterator[SourceQuestion]:
    """Yield questions in the source's order; a row without a question gives an empty one.

    Args:
        name_or_path: a local file, or the id of a `datasets` repository, which is streamed.
        split: split of a repository; which rows are for training, a column `split` says.
        columns: field=column for fields that the source names differently: "system=system_prompt".

    Raises:
        ValueError: the file or a column does not exist, or a channel is unknown; the message names the row.
    """
    source = Path(name_or_path).stem if is_file(name_or_path) else name_or_path
    with name_unreadable(name_or_path):
        table = open_table(name_or_path, split, revision)
        names = map_columns(columns or [], table.column_names, name_or_path)
        rows = enumerate(table.rows)
    while True:
        with name_unreadable(name_or_path):
            number, row = next(rows, (None, None))
        if number is None or row is None:
            return
        yield make_question({field: row[name] for field, name in names.items()}, number, source)


@contextmanager
def name_unreadable(name_or_path: str) -> Iterator[None]:
    """Translate what a loader raises for content that it cannot read; our own errors name the file already."""
    try:
        yield
    except StopIteration as error:
        raise ValueError(f"{name_or_path} has no rows") from error
    except (pa.ArrowException, TypeError, UnicodeDecodeError, DatasetGenerationError) as error:
        raise ValueError(f"{name_or_path} cannot be read: {' '.join(str(error).split())}") from error


def is_file(name_or_path: str) -> bool:
    """Tell a local file from a repository id, by its suffix.

    Raises:
        ValueError: there is such a file, of another kind than those that can be read.
    """
    known = Path(name_or_path).suffix in SUFFIXES
    if not known and Path(name_or_path).is_file():
        raise ValueError(f"{name_or_path} is none of {', '.join(SUFFIXES)}, by its suffix")
    return known


def open_table(name_or_path: str, split: str, revision: str | None) -> TextTable:
    """Open the source as a stream with known columns."""
    if not is_file(name_or_path):
        stream = load_dataset(name_or_path, split=split, revision=revision, streaming=True)
    elif not Path(name_or_path).is_file():
        raise ValueError(f"there is no file {name_or_path}")
    elif (suffix := Path(name_or_path).suffix) in READERS:
        return open_text_file(Path(name_or_path))
    else:
        stream = load_dataset(FILE_LOADERS[suffix], data_files=glob.escape(name_or_path), split="train", streaming=True)
    stream = stream if stream.column_names else stream._resolve_features()
    return TextTable(stream.column_names or [], iter(stream))


def map_columns(columns: list[str], present: list[str], name_or_path: str) -> dict[str, str]:
    """Return field -> column of the source, for every field that it has.

    Raises:
        ValueError: a mapping names no field or no column, or there is no question.
    """
    available = f"its columns are {', '.join(present)}"
    names = {field: field for field in FIELDS if field in present}
    if "source_id" not in names and "id" in present:
        names["source_id"] = "id"
    for mapping in columns:
        field, equals, column = mapping.partition("=")
        if not equals or field not in FIELDS:
            raise ValueError(
                f"columns: {mapping!r} is no mapping; write field=column with a field of {', '.join(FIELDS)}"
            )
        if column not in present:
            raise ValueError(f"{name_or_path} has no column {column!r} (columns: {mapping}); {available}")
        names[field] = column
    if "question" not in names:
        raise ValueError(
            f"{name_or_path} has no column 'question'; {available}. Name the column with the questions: "
            f"columns: [question={present[0] if present else '...'}]"
        )
    return names


def make_question(row: dict[str, Any], number: int, default_source: str) -> SourceQuestion:
    """Convert one row of any table; `number` names it in errors."""
    question = row["question"]
    channels = row.get("channels") or list(PAIR_CHANNELS)
    if isinstance(channels, str):  # a cell of a CSV file: "t2t s2t"
        channels = list(PAIR_CHANNELS) if channels.strip() == "both" else channels.replace(",", " ").split()
    if not isinstance(channels, list) or not all(isinstance(channel, str) for channel in channels):
        raise ValueError(f"row {number}: channels is no list of {', '.join(PAIR_CHANNELS)}: {channels!r}")
    check_channels(channels, f"row {number}", PAIR_CHANNELS)
    split = as_text(row.get("split"))
    if split is not None and not re.fullmatch(r"\w{1,64}", split):
        raise ValueError(f"row {number}: {split[:80]!r} is no name of a split; write at most 64 letters and digits")
    return SourceQuestion(
        source=as_text(row.get("source")) or default_source,
        source_id=as_text(row.get("source_id")) or str(number),
        split=split,
        system=as_text(row.get("system")) or "",
        question=clean_question(question),
        gold_response=as_text(row.get("gold_response")),
        reference=as_text(row.get("reference")),
        channels=channels,
    )


def clean_question(value: Any) -> str:
    """Return a question without invisible characters and white space around it; empty for what is no text."""
    return (as_text(value) or "").translate(INVISIBLE).strip()


def as_text(value: Any) -> str | None:
    """Return a cell as text; None for an empty one, and for what is neither text nor a number.

    A loader may have read 3 as 3.0. Halves of surrogate pairs, which JSON can spell and UTF-8 cannot, are left out.
    """
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return None
    return str(value).encode("utf-8", "ignore").decode("utf-8")


def fingerprint_source(name_or_path: str, revision: str | None = None) -> str:
    """Return name @ version of the questions: a file's hash, a repository's commit."""
    if not is_file(name_or_path):
        return f"{name_or_path}@{HfApi().dataset_info(name_or_path, revision=revision).sha}"
    if not Path(name_or_path).is_file():
        raise ValueError(f"there is no file {name_or_path}")
    return f"{Path(name_or_path).name}@{hash_file(Path(name_or_path))[:16]}"
