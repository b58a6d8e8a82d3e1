"""Questions about sounds: a data set of them as a folder, and a share of it among the pairs of a run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, concatenate_datasets

from data_builders.arguments import DataArguments
from data_builders.pairs import read_pairs
from data_builders.schema import SOUND_CHANNEL, SOUND_FEATURES
from data_builders.storage.call_cache import content_key
from data_builders.storage.dataset_folder import COLUMNS
from data_builders.storage.parquet import AtomicParquetWriter


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


def load_sounds(arguments: DataArguments) -> DatasetDict | None:
    """Return a run's questions about sounds; None for none."""
    if arguments.sound_dataset_name is None:
        return None
    return keep_sounds(read_pairs(arguments.sound_dataset_name, revision=arguments.sound_dataset_revision))


def keep_sounds(data: DatasetDict) -> DatasetDict:
    """Return the rows of a data set that ask about sounds and train nothing else, as the schema types them.

    Raises:
        ValueError: a column is missing, or the split train has no such row.
    """
    kept = DatasetDict()
    for split, rows in data.items():
        if missing := {"id", "question", "channels", *SOUND_FEATURES} - set(rows.column_names):
            raise ValueError(f"sound_dataset_name: its split {split} has no column {', '.join(sorted(missing))}")
        chosen = [i for i, channels in enumerate(rows["channels"]) if channels == [SOUND_CHANNEL]]
        if chosen:
            kept[split] = as_schema(rows.select(chosen))
    if "train" not in kept:
        raise ValueError(f"sound_dataset_name: no row of its split train has the channels ['{SOUND_CHANNEL}'] alone")
    return kept


def as_schema(rows: Dataset) -> Dataset:
    """Return rows with the schema's types, where they have its columns."""
    return rows.cast(Features({name: COLUMNS.get(name, feature) for name, feature in rows.features.items()}))


def add_sounds(pairs: DatasetDict, sounds: DatasetDict, share: float | None, train: bool = True) -> DatasetDict:
    """Return pairs and questions about sounds, split by split.

    Args:
        sounds: of `keep_sounds`.
        share: of the training rows that are to ask about sounds, chosen by their ids; None for all that there are.
        train: false for pairs alone to train on, and sounds to be tested by.

    Raises:
        ValueError: there are too few sounds for the share.
    """
    mixed = DatasetDict(pairs)
    if train:
        chosen = sounds["train"] if share is None else choose_share(sounds["train"], len(pairs["train"]), share)
        mixed["train"] = concatenate_datasets([as_schema(pairs["train"]), chosen])
    if "test" in sounds:
        mixed["test"] = concatenate_datasets([as_schema(part["test"]) for part in (pairs, sounds) if "test" in part])
    return mixed


def choose_share(sounds: Dataset, pairs: int, share: float) -> Dataset:
    """Return so many questions about sounds that they are a share of all rows, in the order of their ids' hashes."""
    wanted = round(pairs * share / (1 - share))
    if wanted > len(sounds):
        most = len(sounds) / (len(sounds) + pairs)
        raise ValueError(
            f"sound_share {share:g} beside {pairs} rows is {wanted} questions about sounds, and the data set has "
            f"{len(sounds)}: set at most {most:.3f}, or leave sound_share unset for all of them"
        )
    order = [content_key(row_id) for row_id in sounds["id"]]
    return sounds.select(sorted(sorted(range(len(sounds)), key=lambda i: order[i])[:wanted]))
