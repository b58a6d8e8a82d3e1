"""All shards into the finished data set, by one process: checked, described, put in place by a rename, pushed.

output_dir/data/train-00000-of-00027.parquet   what trains; loads by `datasets.load_dataset(output_dir)`
output_dir/rejected/...  dropped.parquet       what does not, with reasons
output_dir/README.md  images/                  the card
output_dir/manifest.json                       build, counts, checksums
"""

import collections
import hashlib
import json
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_builders.arguments import BuildArguments
from data_builders.pipeline.dataset_card import HISTOGRAMS, write_dataset_card
from data_builders.questions.select import Plan
from data_builders.speech.recordings import plan_recordings

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished data set; None where there is none.

    Raises:
        ValueError: the folder holds something else, which must not be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} is there and is no data set of build_data.py: name another output_dir"
        )
    manifest = json.loads((folder / MANIFEST).read_text())
    whole = all((folder / name).is_file() for name in manifest["files"])
    return manifest if whole else None


def find_unfinished(plan: Plan, shards: Path) -> list[str]:
    """Shards that are not whole yet."""
    return [shard for shard in plan.shards if not (shards / f"{shard}.json").is_file()]


def assemble_dataset(
    arguments: BuildArguments, plan: Plan, shards: Path, key: str, teacher: str | None
) -> dict[str, Any]:
    """Put the data set in its place; returns its manifest.

    Raises:
        ValueError: a shard is damaged, or no row was kept.
    """
    folder = Path(arguments.output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left_by_a_kill in folder.parent.glob(f"{folder.name}.????????.partial*"):
        shutil.rmtree(left_by_a_kill)
    aside = Path(mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    rows: collections.Counter[str] = collections.Counter()
    outcomes: collections.Counter[str] = collections.Counter()
    files: dict[str, str] = {}
    ids: list[np.ndarray] = []
    shards_of = collections.Counter(shard.rsplit("-", 1)[0] for shard in plan.shards)
    for shard in plan.shards:
        entry = json.loads((shards / f"{shard}.json").read_text())
        split, number = shard.rsplit("-", 1)
        ids.append(check_shard(arguments, plan, shards, shard, entry))
        for name, place in (
            (f"{shard}.parquet", "data"),
            (f"{shard}.rejected.parquet", "rejected"),
        ):
            if pq.read_metadata(shards / name).num_rows:
                there = f"{place}/{split}-{number}-of-{shards_of[split]:05d}.parquet"
                link_or_copy(shards / name, aside / there)
                files[there] = entry["files"][name]
        rows[split] += entry["counts"].get("kept", 0)
        outcomes.update(shorten_reasons(entry["counts"]))
    if len(np.unique(np.concatenate(ids))) != sum(map(len, ids)):
        raise ValueError(f"{shards}: two rows have one id")
    if not rows["train"]:
        raise ValueError(f"no row of the split train was kept: {dict(outcomes)}")
    link_or_copy(plan.folder / "dropped.parquet", aside / "dropped.parquet")
    counts = {
        "questions": {**{"kept": 0}, **plan.counts},
        "rows": {"kept": 0, **dict(sorted(outcomes.items()))},
    }
    kept_rows = {split: count for split, count in sorted(rows.items()) if count}
    figures = read_figures(aside)
    write_dataset_card(aside, arguments, teacher, kept_rows, counts, figures)
    means = {column: round(float(values.mean()), 4) for column, values in figures.items()}
    manifest = {"build": key, "rows": kept_rows, "means": means, "counts": counts, "files": files}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1))
    aside.chmod(0o755)
    if folder.exists():
        read_manifest(folder)  # refuses what is not ours
        replaced = aside.with_name(f"{aside.name}.replaced")
        folder.rename(replaced)
        aside.rename(folder)
        shutil.rmtree(replaced)
    else:
        aside.rename(folder)
    return manifest


def check_shard(
    arguments: BuildArguments, plan: Plan, shards: Path, shard: str, entry: dict[str, Any]
) -> np.ndarray:
    """The ids (n,) of a shard whose files are those of its manifest and whose rows are those of the plan.

    Raises:
        ValueError: they are not.
    """
    found: list[str] = []
    for name, digest in entry["files"].items():
        with (shards / name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise ValueError(
                    f"{shards / name} is damaged: delete {shards / shard}.json and run this again"
                )
        found += pq.read_table(shards / name, columns=["id"])["id"].to_pylist()
    planned = [take.id for row in plan.read(shard) for take in plan_recordings(row, arguments)]
    if sorted(found) != sorted(planned):
        raise ValueError(
            f"{shards / shard}: {len(found)} rows, and {len(planned)} were planned: delete its .json and run this again"
        )
    return np.array([int(row_id, 16) for row_id in found], dtype=np.uint64)


def shorten_reasons(counts: dict[str, int]) -> collections.Counter[str]:
    """Counts of rows by outcome; the error messages of engines and servers are in the rejected rows."""
    short: collections.Counter[str] = collections.Counter()
    for outcome, count in counts.items():
        if outcome not in ("t2t", "s2t"):
            short[outcome.split(":")[0]] += count
        else:
            short[f"kept, trains {outcome}"] += count
    return short


def read_figures(folder: Path) -> dict[str, np.ndarray]:
    """The figures (n,) of all kept rows, by column; those that nobody measured are left out."""
    values: dict[str, list[np.ndarray]] = {column: [] for column in HISTOGRAMS}
    for file in sorted((folder / "data").glob("*.parquet")):
        table = pq.read_table(file, columns=list(HISTOGRAMS))
        for column, pieces in values.items():
            pieces.append(table[column].drop_null().to_numpy())
    joined = {column: np.concatenate(pieces) for column, pieces in values.items()}
    return {column: figures for column, figures in joined.items() if len(figures)}


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, which takes no room, or a copy where the file systems differ."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
