"""A look at the questions of a build before anything is made of them."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_builders.arguments import QuestionArguments
from data_builders.questions.filter import TextCheck
from data_builders.questions.select import select_questions
from data_builders.questions.text_normalization import estimate_seconds


class Preview(NamedTuple):
    """The selected questions, and what was left out of them."""

    counts: dict[str, int]  # read, kept, and rejected by code
    rows: list[dict[str, Any]]
    speech_seconds: np.ndarray  # (rows,), estimated; 0 for a question that is never spoken


def preview_questions(
    arguments: QuestionArguments, recordings: tuple[int, int], text_check: TextCheck | None = None
) -> Preview:
    """Select the questions in a folder that is deleted; arguments as in `select_questions`."""
    with tempfile.TemporaryDirectory() as folder:
        selection = select_questions(arguments, recordings, "1GB", Path(folder), quiet=True, text_check=text_check)
        rows = [row for shard in selection.shards for row in selection.read(shard)]
    seconds = [estimate_seconds(row["spoken_text"]) if "s2t" in row["channels"] else 0.0 for row in rows]
    return Preview(selection.counts, rows, np.array(seconds))
