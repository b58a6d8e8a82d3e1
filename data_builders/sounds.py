"""Questions about sounds: a data set of them as a folder, and a share of it among the pairs of a run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Features, concatenate_datasets

from data_builders.schema import FEATURES, SOUND_CHANNEL, SOUND_FEATURES
from data_builders.storage.call_cache import content_key
from data_builders.storage.parquet import AtomicParquetWriter

COLUMNS = Features({**FEATURES, **SOUND_FEATURES})


def write_split(folder: Path, split: str, rows: Iterable[Mapping[str, Any]]) -> tuple[int, dict[str, str]]:
    """Write the rows of one split as a data file of a folder; returns their number, and the file with its SHA-256.

    Args:
        rows: columns of the schema; those that are missing are null.
    """
    count = 0
    file = folder / "data" / f"{split}-00000-of-00001.parquet"
    file.parent.mkdir(exist_ok=True)
    with AtomicParquetWriter(file, COLUMNS) as writer:
        for row in rows:
            writer.write({**dict.fromkeys(COLUMNS), **row})
            count += 1
        digest = writer.close()
    return count, {str(file.relative_to(folder)): digest}


def add_sounds(pairs: DatasetDict, sounds: DatasetDict, share: float | None, train: bool = True) -> DatasetDict:
    """Return pairs and questions about sounds, split by split.

    Args:
        share: of the training rows that are to ask about sounds, chosen by their ids; None for all that there are.
        train: false for pairs alone to train on, and sounds to be tested by.

    Raises:
        ValueError: there are too few sounds for the share, or none at all.
    """
    rows = sounds["train"]
    if missing := {"id", "channels"} - set(rows.column_names):
        raise ValueError(f"sound_dataset_name: its split train has no column {', '.join(sorted(missing))}")
    about_sounds = [i for i, channels in enumerate(rows["channels"]) if channels == [SOUND_CHANNEL]]
    if not about_sounds:
        raise ValueError(f"sound_dataset_name: no row of its split train has the channels ['{SOUND_CHANNEL}'] alone")
    if share is not None:
        wanted = round(len(pairs["train"]) * share / (1 - share))
        if wanted > len(about_sounds):
            most = len(about_sounds) / (len(about_sounds) + len(pairs["train"]))
            raise ValueError(
                f"sound_share {share:g} beside {len(pairs['train'])} rows is {wanted} questions about sounds, and the "
                f"data set has {len(about_sounds)}: set at most {most:.3f}, or leave sound_share unset for all of them"
            )
        order = [content_key(row_id) for row_id in rows["id"]]
        about_sounds = sorted(sorted(about_sounds, key=lambda i: order[i])[:wanted])
    mixed = DatasetDict(pairs)
    if train:
        mixed["train"] = concatenate_datasets([pairs["train"], rows.select(about_sounds)])
    if "test" in sounds:
        mixed["test"] = concatenate_datasets([part["test"] for part in (pairs, sounds) if "test" in part])
    return mixed
