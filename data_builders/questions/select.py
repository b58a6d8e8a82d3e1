"""Select the questions of a data set: read -> filter -> channels -> shards.

    folder/dropped.parquet          every rejected question, with its code
    folder/train-00000.parquet ...  the selected ones, one file per shard: the unit of work of all later stages
    folder/selection.json           counts and shards; written last

The folder appears by one rename. A killed scan starts again, which takes minutes.
"""

import collections
import contextlib
import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Features, Value
from tqdm import tqdm

from data_builders.arguments import QuestionArguments
from data_builders.outcomes import Rejected, list_rows
from data_builders.questions.channels import ChannelAssigner, hash_to_unit
from data_builders.questions.filter import QuestionFilter, TextCheck
from data_builders.questions.read import SourceQuestion, fingerprint_source, read_questions
from data_builders.questions.shard_writer import ShardWriter, parse_size
from data_builders.schema import make_row_id
from data_builders.storage.atomic import atomic_folder
from data_builders.storage.call_cache import content_key
from data_builders.storage.json_files import read_object
from data_builders.storage.locks import locked
from data_builders.storage.parquet import AtomicParquetWriter

DROPPED_FEATURES = Features(
    {
        "row": Value("int64"),  # number in the source, from 0
        **{name: Value("string") for name in ("id", "source", "source_id", "question", "code", "detail")},
    }
)
FILTER_FIELDS = ("max_words", "max_seconds", "near_duplicates")


@dataclass(frozen=True)
class Selection:
    """The selected questions of a build, on disk."""

    folder: Path
    counts: dict[str, int]  # read, kept, and rejected by code
    shards: dict[str, int]  # name, such as train-00000 -> questions in it

    def read(self, shard: str) -> list[dict[str, Any]]:
        """Return the questions of one shard, in their order."""
        return pq.read_table(self.folder / f"{shard}.parquet").to_pylist()


def fingerprint_selection(
    arguments: QuestionArguments,
    recordings: tuple[int, int],
    max_shard_size: str,
    text_check: TextCheck | None = None,
) -> str:
    """Return a hash of everything that a selection depends on."""
    assert arguments.questions is not None
    names = ["questions_split", "columns", "sample_fraction", "max_rows", "filter_unspeakable"]
    names += ["channel_shares", "seed", *(FILTER_FIELDS if arguments.filter_unspeakable else ())]
    names += ["language"] if arguments.language != "en" else []
    names += ["test_share"] if arguments.test_share else []
    return content_key(
        "selection 2",
        fingerprint_source(arguments.questions, arguments.questions_revision),
        {name: getattr(arguments, name) for name in names},
        recordings,
        max_shard_size,
        text_check and text_check.key,
    )[:16]


def select_questions(
    arguments: QuestionArguments,
    recordings: tuple[int, int],
    max_shard_size: str,
    cache_dir: Path,
    quiet: bool = False,
    text_check: TextCheck | None = None,
) -> Selection:
    """Return the selection of these arguments, made unless it exists.

    Args:
        recordings: recordings of a training question, and of any other question; they size the shards.

    Raises:
        ValueError: bad questions (see `read_questions`), no question left, or more dropped than
            `max_rejected_share`; the message names them.
    """
    max_bytes = parse_size(max_shard_size)
    key = fingerprint_selection(arguments, recordings, max_shard_size, text_check)
    target = cache_dir / "selections" / key
    with locked(target.with_suffix(".lock"), "selects the same questions"):
        if not target.exists():
            with atomic_folder(target) as folder:
                write_selection(arguments, folder, ShardWriter(folder, recordings, max_bytes), quiet, text_check)
    way_out = f"delete {target} and run this again"
    content = read_object(target / "selection.json", way_out, counts=dict, shards=dict)
    check_counts(content["counts"], target / "selection.json", way_out)
    check_share(target, content["counts"], arguments.max_rejected_share)
    return Selection(target, content["counts"], content["shards"])


def check_counts(counts: Any, file: Path, way_out: str) -> None:
    """Raise ValueError for counts of questions, read from a file, that are none."""
    if not isinstance(counts, dict) or not all(isinstance(counts.get(name), int) for name in ("read", "kept")):
        raise ValueError(f"{file} is damaged (no counts of questions): {way_out}")


def check_share(folder: Path, counts: dict[str, int], limit: float) -> None:
    """Raise ValueError, naming them all, if a larger share of the questions was dropped.

    Args:
        folder: of a selection or a data set, with dropped.parquet.
    """
    dropped = counts["read"] - counts["kept"]
    if dropped > limit * counts["read"]:
        rows = pq.read_table(folder / "dropped.parquet").to_pylist()
        lines = [f"row {row['row']}: {row['code']} {row['detail']} {row['question'][:60]!r}" for row in rows]
        raise ValueError(
            f"{dropped} of {counts['read']} questions cannot be used, and max_rejected_share is {limit:g}:"
            f"{list_rows(lines)}"
        )


def write_selection(
    arguments: QuestionArguments, folder: Path, selected: ShardWriter, quiet: bool, text_check: TextCheck | None = None
) -> None:
    """Scan the source into an empty folder."""
    counts: collections.Counter[str] = collections.Counter()
    dropped = AtomicParquetWriter(folder / "dropped.parquet", DROPPED_FEATURES)
    with (
        tqdm(desc="questions", unit="row", total=arguments.max_rows, disable=quiet) as progress,
        contextlib.closing(judge_questions(arguments, folder, text_check)) as judged,
    ):
        for number, row, row_id, verdict in judged:
            counts["read"] += 1
            if isinstance(verdict, Rejected):
                counts[verdict.code] += 1
                question = {name: row[name] for name in ("source", "source_id", "question")}
                rejection = {"code": verdict.code, "detail": verdict.detail}
                dropped.write({"row": number, "id": row_id, **question, **rejection})
                continue
            selected.write({**row, "id": row_id, "spoken_text": verdict})
            counts["kept"] += 1
            progress.update()
            if counts["kept"] == arguments.max_rows:
                break
    dropped.close()
    selected.close()
    if not counts["kept"]:
        raise ValueError(f"{arguments.questions}: no question is left; dropped: {dict(counts)}")
    (folder / "selection.json").write_text(json.dumps({"counts": counts, "shards": selected.shards}, indent=1))


def choose_split(test_share: float, seed: int, row: SourceQuestion) -> str:
    """Return the split of a question by its words, so that equal ones of several sources share it."""
    return "test" if hash_to_unit("test", seed, make_row_id("", row["question"])) < test_share else "train"


def judge_questions(
    arguments: QuestionArguments, folder: Path, text_check: TextCheck | None = None
) -> Generator[tuple[int, SourceQuestion, str, str | Rejected], None, None]:
    """Yield every question of the sample with its row number and id, and its spoken text or rejection."""
    assert arguments.questions is not None
    question_filter = QuestionFilter(arguments, folder, text_check)
    assigner = ChannelAssigner(arguments.parse_channel_shares(), arguments.seed, arguments.max_rows)
    rows = read_questions(
        arguments.questions,
        arguments.questions_split,
        arguments.questions_revision,
        arguments.columns,
    )
    try:
        for number, row in enumerate(rows):
            row_id = make_row_id(row["source"], row["question"], row["system"])
            if hash_to_unit("sample", arguments.seed, row_id) >= arguments.sample_fraction:
                continue
            row["split"] = row["split"] or choose_split(arguments.test_share, arguments.seed, row)
            verdict = question_filter.judge(row, row_id, number)
            if not isinstance(verdict, Rejected) and row["split"] == "train":
                row["channels"] = assigner.assign(row_id) or row["channels"]
            yield number, row, row_id, verdict
    finally:
        question_filter.close()
