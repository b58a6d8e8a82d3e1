"""Which questions the data set will have: read -> filter -> channels -> shards. Cheap, and the same every time.

    folder/dropped.parquet          every question that was left out, with the reason
    folder/train-00000.parquet ...  the kept ones, a file a shard: the unit of work of all stages to come
    folder/plan.json                counts and shards; written last

The folder appears by one rename. A scan that is killed starts anew: it costs minutes, answers and speech cost nights.
"""

import collections
import contextlib
import hashlib
import json
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow.parquet as pq
from datasets import Features, List, Value
from tqdm import tqdm

from data_builders.arguments import BuildArguments
from data_builders.questions.read import Prompt, fingerprint_source, read_questions
from data_builders.questions.text_normalization import estimate_seconds, normalize_for_tts
from data_builders.schema import FEATURES, make_row_id
from data_builders.storage.atomic import AtomicParquetWriter
from data_builders.storage.call_cache import content_key

PLANNED_FEATURES = Features(
    {
        **{name: FEATURES[name] for name in ("id", "source", "system", "question", "spoken")},
        **{name: FEATURES[name] for name in ("gold_response", "reference")},
        "split": Value("string"),
        "channels": List(Value("string")),
    }
)
DROPPED_FEATURES = Features(
    {
        "id": Value("string"),
        "source": Value("string"),
        "question": Value("string"),
        "reason": Value("string"),
    }
)
FLAC_BYTES_A_SECOND = 19_700
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Plan:
    """A finished plan: its folder, and what is in it."""

    folder: Path
    key: str
    counts: dict[str, int]  # kept, and dropped by reason
    shards: dict[str, int]  # name, as train-00000 -> questions in it

    def read(self, shard: str) -> list[dict[str, Any]]:
        """The questions of one shard, in their order."""
        return pq.read_table(self.folder / f"{shard}.parquet").to_pylist()


def fingerprint_selection(arguments: BuildArguments) -> str:
    """Names a plan by all that it depends on."""
    assert arguments.questions is not None
    names = [
        "questions_split",
        "columns",
        "sample_fraction",
        "max_rows",
        "filter_unspeakable",
        "channel_shares",
        "seed",
        "max_shard_size",
    ]
    if arguments.filter_unspeakable:
        names += ["max_words", "max_seconds", "near_duplicates"]
    takes = arguments.recordings_per_question, len(arguments.test_voices)
    return content_key(
        "plan 1",
        fingerprint_source(arguments.questions, arguments.questions_revision),
        {name: getattr(arguments, name) for name in names},
        takes,
    )[:16]


def select_questions(arguments: BuildArguments, quiet: bool = False) -> Plan:
    """The plan of these arguments, made unless it is there.

    Raises:
        ValueError: bad questions (see `read_questions`), or none left; without the filter also an empty one or one that
            stands twice.
    """
    key = fingerprint_selection(arguments)
    folder = Path(arguments.cache_dir) / "plans" / key
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=f"{key}.", suffix=".partial", dir=folder.parent))
        try:
            write_selection(arguments, aside, quiet)
            aside.rename(folder)
        except OSError:  # another process finished the same plan first
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    made = json.loads((folder / "plan.json").read_text())
    return Plan(folder, key, made["counts"], made["shards"])


def write_selection(arguments: BuildArguments, folder: Path, quiet: bool) -> None:
    """Scan the source into an empty folder."""
    counts: collections.Counter[str] = collections.Counter()
    kept = ShardWriter(folder, arguments)
    dropped = AtomicParquetWriter(folder / "dropped.parquet", DROPPED_FEATURES)
    with (
        tqdm(desc="questions", unit="row", total=arguments.max_rows, disable=quiet) as progress,
        contextlib.closing(judge_prompts(arguments, folder)) as judged,
    ):
        for prompt, row_id, spoken, reason in judged:
            counts["read"] += 1
            if reason is not None:
                counts[reason] += 1
                dropped.write(
                    {
                        "id": row_id,
                        "source": prompt["source"],
                        "question": prompt["question"],
                        "reason": reason,
                    }
                )
                continue
            kept.write({**prompt, "id": row_id, "spoken": spoken})
            counts["kept"] += 1
            progress.update()
            if counts["kept"] == arguments.max_rows:
                break
    dropped.close()
    kept.close()
    if not counts["kept"]:
        raise ValueError(f"{arguments.questions}: no question is left; dropped: {dict(counts)}")
    (folder / "plan.json").write_text(
        json.dumps({"counts": counts, "shards": kept.shards}, indent=1)
    )


def judge_prompts(
    arguments: BuildArguments, folder: Path
) -> Generator[tuple[Prompt, str, str, str | None], None, None]:
    """Every question of the sample with its id, its spoken form and, if it is to be dropped, the reason."""
    assert arguments.questions is not None
    judge = QuestionFilter(arguments, folder)
    draw = ChannelAssigner(arguments)
    prompts = read_questions(
        arguments.questions,
        arguments.questions_split,
        arguments.questions_revision,
        arguments.columns,
    )
    try:
        for number, prompt in enumerate(prompts):
            row_id = make_row_id(prompt["source"], prompt["question"])
            if hash_to_unit("sample", arguments.seed, row_id) >= arguments.sample_fraction:
                continue
            reason, spoken = judge.judge(prompt, row_id, number)
            if reason is None and prompt["split"] == "train":
                prompt["channels"] = draw.choose(row_id) or prompt["channels"]
            yield prompt, row_id, spoken, reason
    finally:
        judge.close()


class QuestionFilter:
    """Decides which questions stay. Without the filter all do, and what cannot be asked is an error."""

    def __init__(self, arguments: BuildArguments, folder: Path) -> None:
        self._first: dict[str, int] = {}
        self._filter = self._duplicates = None
        if arguments.filter_unspeakable:
            # Their libraries are of the extra `data`.
            from data_builders.questions.duplicates import NearDuplicates
            from data_builders.questions.speakability import SpeakabilityFilter

            self._filter = SpeakabilityFilter(arguments.max_words, arguments.max_seconds)
            self._database = folder / "seen.sqlite"
            self._duplicates = NearDuplicates(self._database, arguments.near_duplicates)

    def judge(self, prompt: Prompt, row_id: str, number: int) -> tuple[str | None, str]:
        """Reason to drop it, and its spoken form."""
        question = prompt["question"]
        if self._filter is None or self._duplicates is None:
            if not question:
                raise ValueError(f"row {number}: its question is empty")
            if (first := self._first.setdefault(row_id, number)) != number:
                raise ValueError(
                    f"row {number}: the same question as row {first} ({question[:60]!r}); drop one"
                )
            return None, question
        reason = self._filter.find_reason(question)
        if reason is None and self._duplicates.find(row_id, question) is not None:
            reason = "near duplicate"
        return reason, normalize_for_tts(question) if reason is None else ""

    def close(self) -> None:
        if self._duplicates is not None:
            self._duplicates.close()
            self._database.unlink()


class ChannelAssigner:
    """Deals rows to channels by share: by hash of the row, and with `max_rows` to exact counts.

    A row whose kind has all its rows goes to the next kind that has room.
    """

    def __init__(self, arguments: BuildArguments) -> None:
        mix = arguments.parse_channel_shares()
        whole = sum(mix.values())
        self._seed = arguments.seed
        self._shares = {kind: share / whole for kind, share in mix.items()}
        self._room: dict[tuple[str, ...], int] | None = None
        if arguments.max_rows is not None and mix:
            self._room = apportion(arguments.max_rows, self._shares)

    def choose(self, row_id: str) -> list[str] | None:
        """The row's channels; None where the source decides."""
        drawn, edge, chosen = hash_to_unit("channels", self._seed, row_id), 0.0, None
        kinds = list(self._shares)
        for kind in kinds:
            edge += self._shares[kind]
            if drawn < edge or kind == kinds[-1]:
                chosen = kind
                break
        if chosen is not None and self._room is not None:
            chosen = max([chosen, *kinds], key=lambda kind: self._room[kind] > 0)  # type: ignore[index]
            self._room[chosen] -= 1
        return None if chosen is None else list(chosen)


def apportion(rows: int, shares: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], int]:
    """Whole rows of every kind, `rows` in all, by largest remainder."""
    counts = {kind: int(rows * share) for kind, share in shares.items()}
    by_remainder = sorted(shares, key=lambda kind: counts[kind] - rows * shares[kind])
    for kind in by_remainder[: rows - sum(counts.values())]:
        counts[kind] += 1
    return counts


def hash_to_unit(purpose: str, seed: int, row_id: str) -> float:
    """A number in [0, 1) that depends on the row alone."""
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{row_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


class ShardWriter:
    """Questions into shards of a split, each closed when its speech will be as large as a shard should be."""

    def __init__(self, folder: Path, arguments: BuildArguments) -> None:
        self._folder = folder
        self._takes = (arguments.recordings_per_question, len(arguments.test_voices))
        self._limit = parse_size(arguments.max_shard_size)
        self._open: dict[str, tuple[AtomicParquetWriter, str]] = {}
        self._bytes: collections.Counter[str] = collections.Counter()
        self._made: collections.Counter[str] = collections.Counter()
        self.shards: dict[str, int] = {}

    def write(self, row: dict[str, Any]) -> None:
        split = row["split"]
        if split not in self._open:
            name = f"{split}-{self._made[split]:05d}"
            self._open[split] = (
                AtomicParquetWriter(self._folder / f"{name}.parquet", PLANNED_FEATURES),
                name,
            )
            self._made[split] += 1
            self.shards[name] = 0
        writer, name = self._open[split]
        writer.write(row)
        self.shards[name] += 1
        self._bytes[split] += self._estimate_bytes(row)
        if self._bytes[split] >= self._limit:
            writer.close()
            del self._open[split], self._bytes[split]

    def _estimate_bytes(self, row: dict[str, Any]) -> int:
        takes = self._takes[row["split"] != "train"] if "s2t" in row["channels"] else 0
        text = sum(len(row[name] or "") for name in ("system", "question", "gold_response"))
        return text + int(takes * estimate_seconds(row["spoken"]) * FLAC_BYTES_A_SECOND)

    def close(self) -> None:
        for writer, _ in self._open.values():
            writer.close()


def parse_size(size: str) -> int:
    """Bytes of "500MB".

    Raises:
        ValueError: it is no size.
    """
    number, unit = size[:-2], size[-2:].upper()
    if unit not in UNITS or not number.replace(".", "", 1).isdecimal() or float(number) <= 0:
        raise ValueError(f"max_shard_size is a size as 500MB or 2GB, got {size!r}")
    return int(float(number) * UNITS[unit])
