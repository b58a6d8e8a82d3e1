"""Settings of a build from flat keyword arguments, as a command line has them."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_builders.arguments import (
    AnswerArguments,
    BuildSettings,
    PipelineArguments,
    QuestionArguments,
    SpeechArguments,
    VerificationArguments,
)

CLASSES = (QuestionArguments, AnswerArguments, SpeechArguments, VerificationArguments, PipelineArguments)


def make_settings(**values: Any) -> BuildSettings:
    """Give every value to the class that has a field of its name."""
    known = {field.name: cls for cls in CLASSES for field in fields(cls)}
    assert set(values) <= set(known), set(values) - set(known)
    return BuildSettings(
        *(cls(**{name: value for name, value in values.items() if known[name] is cls}) for cls in CLASSES)
    )


def read_parquet(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all parquet files of a folder."""
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
