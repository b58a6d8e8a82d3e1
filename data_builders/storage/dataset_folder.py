"""A finished data set, loaded from its folder or the Hub."""

from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset, load_from_disk

from data_builders.schema import FEATURES


def load_dataset_folder(name: str, revision: str | None = None) -> Any:
    """Load a data set of build_data.py or `save_to_disk`, or one of the Hub; speech stays undecoded.

    Args:
        revision: branch, tag or commit of one of the Hub.
    """
    folder = Path(name)
    if (folder / "data").is_dir():
        files: dict[str, list[str]] = {}
        for file in sorted((folder / "data").glob("*.parquet")):
            files.setdefault(file.name.rsplit("-", 3)[0], []).append(str(file))
        train_first = sorted(files, key=lambda split: (split != "train", split))
        loaded = load_dataset("parquet", data_files={split: files[split] for split in train_first})
    else:
        loaded = load_from_disk(name) if folder.is_dir() else load_dataset(name, revision=revision)
    if isinstance(loaded, DatasetDict):
        for split, dataset in loaded.items():
            for column in {"speech", "noisy_speech"} & set(dataset.column_names):
                loaded[split] = loaded[split].cast_column(column, FEATURES[column])
    return loaded
