"""Questions about a clip: MMAU in its two incompatible versions, MMAR, and the spoken Big Bench Audio."""

import json
from typing import Any

from trainer_ext.evaluation.benchmarks.base import Benchmark, Row, read_choices, strip_letter

ASK_FOR_WORDS = "Answer with the words of the right choice and nothing else."


def ask_with_choices(question: str, choices: list[str]) -> str:
    """Return the written prompt of a multiple choice question about a clip."""
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCDEFGHIJ", choices, strict=False))
    return f"{question}\n{listed}\n{ASK_FOR_WORDS}"


def make_choice_item(question: str, choices: list[str], answer: str, **values: Any) -> dict[str, Any]:
    """Return the fields of a multiple choice question; letters before choices and answer are removed."""
    choices = [strip_letter(choice) for choice in choices]
    prompt = ask_with_choices(question, choices)
    return {"question": prompt, "choices": choices, "reference": strip_letter(answer), **values}


def make_original_mmau_item(row: Row) -> dict[str, Any]:
    """Return the fields of a row of the first version: choices as JSON in a string."""
    return make_choice_item(row["question"], read_choices(row["choices"]), row["answer"], group=row["task"])


def make_revised_mmau_item(row: Row) -> dict[str, Any]:
    """Return the fields of a row of v05.15.25: lettered choices, everything else as JSON in one string."""
    others = json.loads(row["other_attributes"])
    values = {"group": others["task"], **({"id": others["id"]} if "id" in others else {})}
    return make_choice_item(row["instruction"], read_choices(row["choices"]), row["answer"], **values)


def make_mmar_item(row: Row) -> dict[str, Any]:
    """Return the fields of a row of MMAR-meta.jsonl."""
    return make_choice_item(
        row["question"], read_choices(row["choices"]), row["answer"], id=row["id"], group=row["modality"]
    )


def make_big_bench_item(row: Row) -> dict[str, Any]:
    """Return the fields of a question that exists as a clip alone."""
    return {"id": row["id"], "group": row["category"], "reference": row["official_answer"]}


# A question and its clip go together, so that a question is no pair of modalities: two clips may share its words.
BENCHMARKS = (
    Benchmark(
        name="mmau_mini_original",
        source="lmms-lab/mmau",
        splits=("test_mini",),
        modalities=("audio",),
        evaluator="choice_words",
        make_item=make_original_mmau_item,
        columns=("question", "choices", "answer", "task"),
        max_new_tokens=128,
        note="the version of arXiv 2410.19168; a quarter of its questions was revised later",
    ),
    Benchmark(
        name="mmau_mini_v05.15.25",
        source="gamma-lab-umd/MMAU-test-mini",
        data_files={"test_mini": "test_mini.parquet"},
        splits=("test_mini",),
        modalities=("audio",),
        evaluator="choice_words",
        make_item=make_revised_mmau_item,
        columns=("instruction", "choices", "answer", "other_attributes"),
        audio_column="context",
        max_new_tokens=128,
        note="the revised version",
    ),
    Benchmark(
        name="mmar",
        source="BoJack/MMAR",
        splits=("test",),
        modalities=("audio",),
        evaluator="choice_words",
        make_item=make_mmar_item,
        columns=("id", "question", "choices", "answer", "modality"),
        audio_column="audio_path",
        max_new_tokens=512,
        folder_hint="the file MMAR-meta.jsonl beside the unpacked mmar-audio.tar.gz of BoJack/MMAR",
    ),
    Benchmark(
        name="big_bench_audio",
        source="ArtificialAnalysis/big_bench_audio",
        splits=("train",),
        modalities=("speech",),
        evaluator="judged_answer",
        make_item=make_big_bench_item,
        columns=("id", "category", "official_answer"),
        audio_column="file_name",
        metadata="metadata.jsonl",
        max_new_tokens=2048,
    ),
)
