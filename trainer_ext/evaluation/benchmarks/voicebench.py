"""VoiceBench (arXiv 2410.17196): nine subsets of spoken requests, and the two overall scores made of them.

The clip alone is the user's turn in speech, `prompt` in text. All of it is 11 GB of Parquet.
"""

from collections.abc import Callable
from typing import Any

from trainer_ext.evaluation.benchmarks.base import Benchmark, Row
from trainer_ext.evaluation.evaluators.bbh import TASKS

SOURCE = "hlt-lab/voicebench"
ACCENTS = ("aus", "gbr", "ind_n", "ind_s", "irl", "kenya", "nga", "nzl", "phl", "usa", "zaf")
DOMAINS = (
    "law", "engineering", "other", "biology", "business", "economics", "health", "philosophy", "psychology", "history",
    "chemistry", "physics",
)  # fmt: skip
NINE = ("alpacaeval_full", "commoneval", "wildvoice", "sd-qa", "mmsu", "openbookqa", "bbh", "ifeval", "advbench")
SEVEN = ("alpacaeval_full", "commoneval", "sd-qa", "mmsu", "openbookqa", "ifeval", "advbench")
# The paper's seven were scored by Kimi-Audio-Evalkit, on one accent of sd-qa, multiple choice by a judge.
OVERALL = {"voicebench, nine subsets": NINE, "voicebench, the paper's seven": SEVEN}


def make_item(row: Row) -> dict[str, Any]:
    """Return the fields of a request, with its reference where the subset has one."""
    return {"question": row["prompt"], "reference": row.get("reference")}


def make_bbh_item(row: Row) -> dict[str, Any]:
    """Return the fields of a question whose id names its task."""
    task = next((task for task in TASKS if task in row["id"]), "other")
    return {**make_item(row), "id": row["id"], "group": task, "details": {"id": row["id"]}}


def make_ifeval_item(row: Row) -> dict[str, Any]:
    """Return the fields of a request with the instructions that its answer must follow."""
    return {**make_item(row), "details": {name: row[name] for name in ("instruction_id_list", "kwargs")}}


def subset(
    name: str,
    evaluator: str,
    make: Callable[[Row], dict[str, Any]] = make_item,
    columns: tuple[str, ...] = ("prompt",),
    splits: tuple[str, ...] = ("test",),
    note: str = "",
) -> Benchmark:
    """Return one subset."""
    return Benchmark(
        name=f"voicebench/{name}",
        source=SOURCE,
        config=name,
        splits=splits,
        modalities=("text", "speech"),
        evaluator=evaluator,
        make_item=make,
        columns=columns,
        max_new_tokens=2048,
        note=note,
    )


ANSWERED = ("prompt", "reference")
PEDANT = "by the judge alone: the official score is the mean of judge and PEDANT, whose figure depends on its version"
SUBSETS = (
    subset("alpacaeval_full", "open_rating"),
    subset("commoneval", "open_rating"),
    subset("wildvoice", "open_rating"),
    subset("sd-qa", "judged_answer", columns=ANSWERED, splits=ACCENTS, note=PEDANT),
    subset("mmsu", "multiple_choice", columns=ANSWERED, splits=DOMAINS, note="spoken MMLU-Pro, not arXiv 2506.04779"),
    subset("openbookqa", "multiple_choice", columns=ANSWERED),
    subset("bbh", "bbh", make_bbh_item, (*ANSWERED, "id")),
    subset("ifeval", "instruction_following", make_ifeval_item, ("prompt", "instruction_id_list", "kwargs")),
    subset("advbench", "refusal"),
)
