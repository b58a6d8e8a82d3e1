"""Questions, from local files or a `datasets` id, one at a time: a source of millions is never in memory or on disk.

In: a JSONL/JSON/CSV/Parquet file, or the id of a data set on the Hub, and which of its columns is what.
Out: one dict a question with the columns that `Prompt` names, and the split it belongs to.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from datasets import IterableDataset, load_dataset
from huggingface_hub import HfApi

from data_builders.schema import CHANNELS, check_channels

FILE_LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
FIELDS = ("question", "system", "gold_response", "reference", "source", "channels", "split")


class Prompt(TypedDict):
    """A question before anybody has answered or spoken it."""

    source: str
    split: str
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
) -> Iterator[Prompt]:
    """Read questions, in the source's order.

    Args:
        name_or_path: a local file, or the id of a `datasets` repository, which is streamed.
        split: which split of a repository. Its rows are for training, or for what a column `split` says.
        columns: where a field has another name in the source: "system=system_prompt".

    Yields:
        Prompts; one that cannot be asked has an empty question.

    Raises:
        ValueError: there is no such file or column, or a channel that nobody knows; the message names the row.
    """
    table = open_table(name_or_path, split, revision)
    names = map_columns(columns or [], table.column_names, name_or_path)
    source = Path(name_or_path).stem if is_file(name_or_path) else name_or_path
    for number, row in enumerate(table):
        yield make_question({field: row[name] for field, name in names.items()}, number, source)


def is_file(name_or_path: str) -> bool:
    return Path(name_or_path).suffix in FILE_LOADERS


def open_table(name_or_path: str, split: str, revision: str | None) -> IterableDataset:
    """The source as a stream whose columns are known."""
    if not is_file(name_or_path):
        stream = load_dataset(name_or_path, split=split, revision=revision, streaming=True)
    elif not Path(name_or_path).is_file():
        raise ValueError(f"there is no file {name_or_path}")
    else:
        loader = FILE_LOADERS[Path(name_or_path).suffix]
        stream = load_dataset(loader, data_files=name_or_path, split="train", streaming=True)
    return stream if stream.column_names else stream._resolve_features()


def map_columns(columns: list[str], present: list[str], name_or_path: str) -> dict[str, str]:
    """Field -> column of the source, for every field that it has.

    Raises:
        ValueError: a mapping that names no field or no column, or no question.
    """
    there = f"its columns are {', '.join(present)}"
    names = {field: field for field in FIELDS if field in present}
    for mapping in columns:
        field, equals, column = mapping.partition("=")
        if not equals or field not in FIELDS:
            raise ValueError(
                f"columns: {mapping!r} is no mapping; write field=column with a field of {', '.join(FIELDS)}"
            )
        if column not in present:
            raise ValueError(
                f"{name_or_path} has no column {column!r} (columns: {mapping}); {there}"
            )
        names[field] = column
    if "question" not in names:
        raise ValueError(
            f"{name_or_path} has no column 'question'; {there}. Name the one that holds questions: "
            f"columns: [question={present[0] if present else '...'}]"
        )
    return names


def make_question(row: dict[str, Any], number: int, default_source: str) -> Prompt:
    """One row of any table as a `Prompt`; `number` names it in errors."""
    question = row["question"]
    channels = row.get("channels") or list(CHANNELS)
    if isinstance(channels, str):  # a cell of a CSV file: "t2t s2t"
        channels = channels.replace(",", " ").split()
    check_channels(channels, f"row {number}")
    split = row.get("split") or "train"
    if not re.fullmatch(r"\w+", split):
        raise ValueError(f"row {number}: {split!r} is no name of a split; write letters and digits")
    return Prompt(
        source=row.get("source") or default_source,
        split=split,
        system=row.get("system") or "",
        question=question.strip() if isinstance(question, str) else "",
        gold_response=as_text(row.get("gold_response")),
        reference=as_text(row.get("reference")),
        channels=channels,
    )


def as_text(value: Any) -> str | None:
    """An answer as text: files give 4 for "4"."""
    return None if value is None else str(value)


def fingerprint_source(name_or_path: str, revision: str | None = None) -> str:
    """What distinguishes these questions from an earlier version of them: a file's hash, a repository's commit."""
    if not is_file(name_or_path):
        return f"{name_or_path}@{HfApi().dataset_info(name_or_path, revision=revision).sha}"
    if not Path(name_or_path).is_file():
        raise ValueError(f"there is no file {name_or_path}")
    with Path(name_or_path).open("rb") as stream:
        return f"{Path(name_or_path).name}@{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
