"""A finished data set, loaded from its folder or the Hub."""

import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Audio, DatasetDict, Features, LargeList, List, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from data_builders.schema import FEATURES, SOUND_FEATURES
from data_builders.storage.clip_paths import check_clip_paths
from data_builders.storage.locks import entries_locked

COLUMNS = Features({**FEATURES, **SOUND_FEATURES})
AUDIO_COLUMNS = tuple(name for name, feature in COLUMNS.items() if isinstance(feature, Audio))


def load_dataset_folder(name: str, revision: str | None = None) -> Any:
    """Load a data set of build_data.py or `save_to_disk`, or one of the Hub; speech stays undecoded.

    Args:
        revision: branch, tag or commit of one of the Hub.

    Raises:
        ValueError: a column has another type than the schema's, or a clip is a file outside of the data set.
    """
    folder = Path(name)
    try:
        with entries_locked(folder.absolute().parent, shared=True):  # a build may put another one in its place
            if (folder / "data").is_dir():
                loaded = load_dataset("parquet", data_files=list_data_files(folder))
            else:
                loaded = load_from_disk(name) if folder.is_dir() else load_dataset(name, revision=revision)
    except (DatasetGenerationError, pa.ArrowException, TypeError, KeyError) as error:  # damaged files
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"the data set {name} cannot be read ({reason}): build or download it again") from error
    if isinstance(loaded, DatasetDict):
        for split, dataset in loaded.items():
            check_column_types(dataset.features, f"{name}, split {split}")
            for column in set(AUDIO_COLUMNS) & set(dataset.column_names):
                loaded[split] = loaded[split].cast_column(column, COLUMNS[column])
                check_clip_paths(loaded[split], column, name)
    return loaded


def list_data_files(folder: Path) -> dict[str, list[str]]:
    """Return the parquet files of a built data set by split, train first.

    Their names are escaped: `load_dataset` reads a name as a pattern, in which "[1]" is the character 1.
    """
    files: dict[str, list[str]] = {}
    for file in sorted((folder / "data").glob("*.parquet")):
        files.setdefault(file.name.rsplit("-", 3)[0], []).append(glob.escape(str(file)))
    train_first = sorted(files, key=lambda split: (split != "train", split))
    return {split: files[split] for split in train_first}


def check_column_types(features: Features, where: str) -> None:
    """Raise ValueError, naming them all, for columns of the schema that have another type; `where` starts the message.

    Types that hold the same values are accepted: large_string for string, float64 or integers for float32.
    """
    wrong = [
        f"column {name} has the type {features[name]}, and is to be {wanted}"
        for name, wanted in COLUMNS.items()
        if name in features and describe_kind(features[name]) not in (describe_kind(wanted), "nothing")
    ]
    if wrong:
        raise ValueError(f"{where}: {'; '.join(wrong)}. Convert them by `cast_column` of datasets")


def describe_kind(feature: Any) -> str:
    """Return the values that a column's type can hold: text, number, audio, nothing (all null), or else the type."""
    if isinstance(feature, Audio):
        return "audio"
    if isinstance(feature, dict) and set(feature) == {"bytes", "path"}:
        return "audio"
    if isinstance(feature, (List, LargeList)):
        return f"list of {describe_kind(feature.feature)}"
    if isinstance(feature, Value):
        if feature.dtype in ("string", "large_string"):
            return "text"
        if feature.dtype.startswith(("float", "int", "uint")):
            return "number"
        if feature.dtype == "null":
            return "nothing"
    return str(feature)
