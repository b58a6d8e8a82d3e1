"""Answers on disk: JSONL, one line per question, modality and model, appended batch by batch.

A killed run leaves at most one incomplete line, which the next run cuts off. A line holds its item too, which tells an
answer to another question, or to another clip under the same id.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer_ext.evaluation.items import Answer, AnsweredItem, Item


def answer_path(folder: Path, source_key: str, benchmark: str, modality: str, settings: Sequence[str]) -> Path:
    """Return the file of one model, benchmark, modality and setting of generation and recordings."""
    name = ".".join([benchmark, modality, *settings]).replace("/", "__").replace(" ", "_")
    return folder / "answers" / source_key / f"{name}.jsonl"


def read_answers(file: Path) -> Iterator[AnsweredItem]:
    """Yield the answers of a file; an incomplete last line is left out.

    Raises:
        ValueError: a line is not an answer; names file and line.
    """
    if not file.exists():
        return
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            values = json.loads(line)
            item = Item.from_dict(values["item"])
            answer = Answer(**values["answer"])
            if not all(isinstance(text, str) for text in (item.id, answer.text, answer.finish_reason)):
                raise TypeError("a text is none")
            yield AnsweredItem(item, values["modality"], answer)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{file}, line {number}: not an answer ({error!r}); delete the line, and it is asked again"
            ) from error


def cut_incomplete_line(file: Path) -> None:
    """Remove what follows the last line's end."""
    if not file.exists():
        return
    content = file.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        os.truncate(file, complete)


def append_answers(file: Path, answered: Iterable[AnsweredItem], facts: dict[str, Any]) -> None:
    """Append answers and write them to the disk.

    Args:
        facts: of the model and of the generation, written into every line.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"item": entry.item.to_dict(), "modality": entry.modality, "answer": asdict(entry.answer), **facts}
        for entry in answered
    ]
    with file.open("ab") as stream:
        stream.write("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())
        stream.flush()
        os.fsync(stream.fileno())
