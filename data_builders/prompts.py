"""Questions, from a local file or a `datasets` id, as rows without answers of the teacher and without speech.

In: a JSONL/JSON/CSV/Parquet file, or the id of a data set on the Hub, with a `question` column at least.
Out: one dict a question with the columns that `Prompt` names, and the split it belongs to.
"""

from pathlib import Path
from typing import Any, TypedDict

from datasets import load_dataset

from data_builders.schema import CHANNELS, check_channels, make_row_id

FILE_LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


class Prompt(TypedDict):
    """A question before anybody has answered or spoken it."""

    source: str
    split: str
    system: str
    question: str
    gold_response: str | None
    reference: str | None
    channels: list[str]


def load_prompts(name_or_path: str, split: str = "train") -> list[Prompt]:
    """Read questions.

    Args:
        name_or_path: a local file, or the id of a `datasets` repository.
        split: which split of a repository; a file's rows may name their own in a `split` column.

    Raises:
        ValueError: no `question` column, or a row that cannot be asked; the message names the row.
    """
    file = Path(name_or_path)
    if file.suffix in FILE_LOADERS:
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
        table = load_dataset(FILE_LOADERS[file.suffix], data_files=str(file), split="train")
    else:
        table = load_dataset(name_or_path, split=split)
    if "question" not in table.column_names:
        raise ValueError(
            f"{name_or_path} has no column 'question'; its columns are {', '.join(table.column_names)}"
        )
    prompts = [
        make_prompt(row, number, default_source=file.stem or name_or_path, default_split=split)
        for number, row in enumerate(table)
    ]
    check_unique(prompts)
    return prompts


def make_prompt(
    row: dict[str, Any], number: int, default_source: str, default_split: str
) -> Prompt:
    """One row of any table as a `Prompt`; `number` names it in errors."""
    question = row["question"]
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"row {number}: its question is empty")
    channels = row.get("channels") or list(CHANNELS)
    if isinstance(channels, str):  # a cell of a CSV file: "t2t s2t"
        channels = channels.replace(",", " ").split()
    check_channels(channels, f"row {number}")
    return Prompt(
        source=row.get("source") or default_source,
        split=row.get("split") or default_split,
        system=row.get("system") or "",
        question=question,
        gold_response=as_text(row.get("gold_response")),
        reference=as_text(row.get("reference")),
        channels=channels,
    )


def as_text(value: Any) -> str | None:
    """An answer as text: files give 4 for "4"."""
    return None if value is None else str(value)


def check_unique(prompts: list[Prompt]) -> None:
    """Refuse a question that stands twice in one source: its rows would share an id."""
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        first = seen.setdefault(make_row_id(prompt["source"], prompt["question"]), number)
        if first != number:
            raise ValueError(
                f"row {number}: the same question as row {first} ({prompt['question'][:60]!r}); drop one"
            )
