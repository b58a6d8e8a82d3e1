"""Rows of JSONL, JSON, CSV, TSV and text files, one at a time, by their lines.

Every value keeps what was written: a loader that infers types from the first rows reads "007" as 7, and stops at the
first text in a column of numbers. A malformed line is an error that names it, and never shifts a value to another
column.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

DELIMITERS = {".csv": ",", ".tsv": "\t"}


class TextTable(NamedTuple):
    """The columns of a file, and its rows."""

    column_names: list[str]
    rows: Iterator[dict[str, Any]]


def open_text_file(file: Path) -> TextTable:
    """Open a file as a table.

    Raises:
        ValueError: no row, or a line that cannot be read; names file and line. Rows raise it too.
    """
    names: dict[str, None] = {}
    read = READERS[file.suffix]
    for row in read(file):  # the last row may have a column that no other has
        names.update(dict.fromkeys(row))
    if not names:
        raise ValueError(f"{file} has no rows")
    return TextTable(list(names), (dict.fromkeys(names) | row for row in read(file)))


def read_jsonl(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the object of every line that is not blank."""
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f'{file}, line {number} is no object: write {{"question": "..."}}')
        yield row


def read_json(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list, or those of a file with one object a line.

    The file is read as a whole by Python's own parser: that of `datasets` crashes on some malformed files.
    """
    text = "".join(read_lines(file))
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if "\n" not in text.strip():
            raise ValueError(f"{file} is not JSON: {error}") from error
        yield from read_jsonl(file)
        return
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if not isinstance(row, dict):
            raise ValueError(f'{file}, row {number} is no object: write [{{"question": "..."}}, ...]')
        yield row


def read_separated(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV or TSV file by its header; an empty cell is None."""
    reader = csv.reader(read_lines(file), delimiter=DELIMITERS[file.suffix], strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = [name.strip() for name in cells]
            elif len(cells) > len(header):
                raise ValueError(
                    f"{file}, line {reader.line_num} has {len(cells)} cells, and the header {len(header)}: put a cell "
                    "with a separator in it in double quotes"
                )
            elif cells:
                yield {name: cell or None for name, cell in zip(header, cells, strict=False)}
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} cannot be read: {error} (double quotes?)") from error


def read_text(file: Path) -> Iterator[dict[str, Any]]:
    """Yield every line as a question."""
    for line in read_lines(file):
        yield {"question": line.rstrip("\r\n")}


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file in UTF-8, without a byte order mark."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield from stream
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} cannot be read: it is not UTF-8 ({error})") from error


READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".jsonl": read_jsonl,
    ".csv": read_separated,
    ".tsv": read_separated,
    ".txt": read_text,
    ".json": read_json,
}
