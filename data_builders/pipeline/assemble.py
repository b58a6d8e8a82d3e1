"""All shards into the finished data set, by one process: checked, described, put in place by a rename.

output_dir/data/train-00000-of-00027.parquet   rows that train; loads by `datasets.load_dataset(output_dir)`
output_dir/rejected/...  dropped.parquet       rows that do not, with their rejections
output_dir/README.md  images/                  the card
output_dir/manifest.json                       build, counts, checksums
"""

import collections
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_builders.arguments import BuildSettings
from data_builders.pipeline.dataset_card import HISTOGRAMS, write_dataset_card
from data_builders.pipeline.stages import ShardRecordings
from data_builders.questions.select import check_counts
from data_builders.storage.atomic import atomic_folder, hash_file
from data_builders.storage.json_files import read_object

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a complete data set; None where there is none.

    Raises:
        ValueError: the folder holds something else, which must not be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} exists and is no data set of build_data.py: name another output_dir")
    way_out = "delete the folder, and build it again"
    manifest = read_object(folder / MANIFEST, way_out, build=str, rows=dict, counts=dict, files=dict)
    check_counts(manifest["counts"].get("questions"), folder / MANIFEST, way_out)
    complete = all((folder / name).is_file() for name in manifest["files"])
    return manifest if complete else None


def find_unfinished(shards: dict[str, int], folder: Path) -> list[str]:
    """Return the shards that have no record in `folder`."""
    return [shard for shard in shards if not (folder / f"{shard}.json").is_file()]


def assemble_dataset(
    settings: BuildSettings,
    recordings: ShardRecordings,
    shards: Path,
    key: str,
    teacher: str | None,
) -> dict[str, Any]:
    """Put the data set in its place; returns its manifest.

    Raises:
        ValueError: a shard is damaged, or no row was kept.
    """
    target, selection = Path(settings.pipeline.output_dir), recordings.selection
    rows: collections.Counter[str] = collections.Counter()
    outcomes: collections.Counter[str] = collections.Counter()
    channels: collections.Counter[str] = collections.Counter()
    files: dict[str, str] = {}
    ids: list[np.ndarray] = []
    shards_per_split = collections.Counter(name.rsplit("-", 1)[0] for name in selection.shards)
    read_manifest(target)  # refuses a folder of something else
    with atomic_folder(target) as folder:
        for shard in selection.shards:
            entry = read_shard_record(shards / f"{shard}.json")
            split, number = shard.rsplit("-", 1)
            ids.append(check_shard(recordings, shards, shard, entry))
            for name, place in (
                (f"{shard}.parquet", "data"),
                (f"{shard}.rejected.parquet", "rejected"),
            ):
                if pq.read_metadata(shards / name).num_rows:
                    file = f"{place}/{split}-{number}-of-{shards_per_split[split]:05d}.parquet"
                    link_or_copy(shards / name, folder / file)
                    files[file] = entry["files"][name]
            rows[split] += entry["counts"].get("kept", 0)
            outcomes.update(entry["counts"])
            channels.update(entry["channels"])
        if len(np.unique(np.concatenate(ids))) != sum(map(len, ids)):
            raise ValueError(f"{shards}: two rows have one id")
        if not rows["train"]:
            raise ValueError(f"no row of the split train was kept: {dict(outcomes)}")
        link_or_copy(selection.folder / "dropped.parquet", folder / "dropped.parquet")
        counts = {
            "questions": {"kept": 0, **selection.counts},
            "rows": {"kept": 0, **dict(sorted(outcomes.items()))},
            "kept rows by channel": dict(sorted(channels.items())),
        }
        kept_rows = {split: count for split, count in sorted(rows.items()) if count}
        figures = read_figures(folder)
        write_dataset_card(folder, settings, teacher, kept_rows, counts, figures)
        means = {column: round(float(values.mean()), 4) for column, values in figures.items()}
        manifest = {
            "build": key,
            "rows": kept_rows,
            "means": means,
            "counts": counts,
            "files": files,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return manifest


def read_shard_record(file: Path) -> dict[str, Any]:
    """Return counts, channels and checksums of a finished shard.

    Raises:
        ValueError: the file is damaged.
    """
    return read_object(file, "delete it and run this again", counts=dict, channels=dict, files=dict)


def check_shard(recordings: ShardRecordings, shards: Path, shard: str, entry: dict[str, Any]) -> np.ndarray:
    """Return the ids (n,) of a shard after a check of its checksums and rows.

    Raises:
        ValueError: a file is damaged, or its rows are not those of the selection.
    """
    found: list[str] = []
    for name, digest in entry["files"].items():
        if hash_file(shards / name) != digest:
            raise ValueError(f"{shards / name} is damaged: delete {shards / shard}.json and run this again")
        found += pq.read_table(shards / name, columns=["id"])["id"].to_pylist()
    selected = [recording.id for _, recording in recordings.all(shard)]
    if sorted(found) != sorted(selected):
        raise ValueError(
            f"{shards / shard}: {len(found)} rows, and {len(selected)} were selected: delete its .json and run this "
            "again"
        )
    return np.array([int(row_id, 16) for row_id in found], dtype=np.uint64)


def read_figures(folder: Path) -> dict[str, np.ndarray]:
    """Return the values (n,) of the measured columns of all kept rows; columns without a value are left out."""
    values: dict[str, list[np.ndarray]] = {column: [] for column in HISTOGRAMS}
    for file in sorted((folder / "data").glob("*.parquet")):
        table = pq.read_table(file, columns=list(HISTOGRAMS))
        for column, pieces in values.items():
            pieces.append(table[column].drop_null().to_numpy())
    joined = {column: np.concatenate(pieces) for column, pieces in values.items()}
    return {column: figures for column, figures in joined.items() if len(figures)}


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link, or a copy across file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
