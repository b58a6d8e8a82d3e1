"""Items of one's own data: a data set of build_data.py, or any `datasets` id or file with a mapping of columns."""

import collections
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from data_builders.hub.ids import public_name
from trainer_ext.evaluation.benchmarks.base import CLIP, SPEECH_FEATURE, Benchmark, LoadedBenchmark, Row, read_choices
from trainer_ext.evaluation.items import Item

FIELDS = ("question", "system", "reference", "choices", "group", "id", "speech", "audio")


def make_pairs_benchmark(
    rows: Dataset, name: str, evaluator: str, max_new_tokens: int, about_sounds: bool = False
) -> LoadedBenchmark:
    """Return rows of the data contract that have speech, or all a sound, as a benchmark; a source is a group."""
    wanted = ("id", "question", "system", "source", "reference", "teacher_response", "voice")
    clip = "audio" if about_sounds else "speech"
    if missing := [name for name in ("id", "question", "system", "source", clip) if name not in rows.column_names]:
        raise ValueError(f"{name}: the test rows have no column {', '.join(missing)}")
    if repeated := [str(row_id) for row_id, count in collections.Counter(rows["id"]).items() if count > 1]:
        raise ValueError(f"{name}: {len(repeated)} ids are in several rows, or none; the first is {repeated[0]}")
    items = []
    for row in rows.select_columns([column for column in wanted if column in rows.column_names]):
        items.append(
            Item(
                id=row["id"],
                # Recordings of one question share its words; two sounds may be asked about in the same words.
                question_id=row["id"] if about_sounds else f"{row['source']}\0{row['system']}\0{row['question']}",
                benchmark=name,
                group=row["source"],
                question=row["question"],
                system=row["system"],
                reference=row.get("reference") or None,
                details={"teacher_response": row.get("teacher_response"), "voice": row.get("voice")},
            )
        )
    benchmark = Benchmark(
        name=name,
        source=name,
        splits=("test",),
        modalities=("audio",) if about_sounds else ("text", "speech"),
        evaluator=evaluator,
        make_item=dict,
        columns=(),
        max_new_tokens=max_new_tokens,
    )
    clips = rows.select_columns([clip]).rename_column(clip, CLIP).cast_column(CLIP, SPEECH_FEATURE)
    return LoadedBenchmark(benchmark, items, clips)


def make_mapped_benchmark(
    source: str,
    config: str | None,
    split: str,
    columns: Mapping[str, str],
    evaluator: str,
    max_new_tokens: int,
    revision: str | None = None,
) -> Benchmark:
    """Return a benchmark of any data set.

    Args:
        columns: field of FIELDS -> the data set's column. `speech` is the spoken question, `audio` a clip that a
            written question is about.

    Raises:
        ValueError: an unknown field, or neither a question nor speech.
    """
    if unknown := set(columns) - set(FIELDS):
        raise ValueError(f"columns: unknown {', '.join(sorted(unknown))}; known are {', '.join(FIELDS)}")
    if "audio" in columns and ("speech" in columns or "question" not in columns):
        raise ValueError("columns: `audio` is what a `question` in writing is about; `speech` is a spoken question")
    if not {"question", "speech"} & set(columns):
        raise ValueError(
            "columns: name the column of the question (question=...), of its recording (speech=...) or both"
        )
    modalities = ("audio",) if "audio" in columns else tuple(m for m, c in MODALITY_FIELDS.items() if c in columns)
    clip = columns.get("audio") or columns.get("speech")
    read = {name: column for name, column in columns.items() if column != clip}

    def make_item(row: Row) -> dict[str, Any]:
        values = {name: row[column] for name, column in read.items() if row[column] is not None}
        if "choices" in values:
            values["choices"] = read_choices(values["choices"])
        return {name: value if name == "choices" else str(value) for name, value in values.items()}

    return Benchmark(
        name=public_name(source),
        source=source,
        revision=revision,
        config=config,
        splits=(split,),
        modalities=modalities,
        evaluator=evaluator,
        make_item=make_item,
        columns=tuple(read.values()),
        audio_column=clip,
        max_new_tokens=max_new_tokens,
        own=True,
    )


MODALITY_FIELDS = {"text": "question", "speech": "speech"}
