"""A finished data set, read and handed on: from its folder, from the Hub, as Arrow files, to the Hub."""

from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset, load_from_disk
from huggingface_hub import HfApi

from data_builders.arguments import BuildArguments
from data_builders.schema import FEATURES


def load_dataset_folder(name: str) -> Any:
    """A data set from a folder of this module or of `save_to_disk`, or from the Hub; speech undecoded."""
    folder = Path(name)
    if (folder / "data").is_dir():
        files: dict[str, list[str]] = {}
        for file in sorted((folder / "data").glob("*.parquet")):
            files.setdefault(file.name.rsplit("-", 3)[0], []).append(str(file))
        train_first = sorted(files, key=lambda split: (split != "train", split))
        loaded = load_dataset("parquet", data_files={split: files[split] for split in train_first})
    else:
        loaded = (load_from_disk if folder.is_dir() else load_dataset)(name)
    if isinstance(loaded, DatasetDict):
        for split, dataset in loaded.items():
            for column in {"speech", "noisy_speech"} & set(dataset.column_names):
                loaded[split] = loaded[split].cast_column(column, FEATURES[column])
    return loaded


def export_and_push(folder: Path, arguments: BuildArguments) -> None:
    """What the arguments want done with the finished folder."""
    if arguments.save_to_disk is not None:
        load_dataset_folder(str(folder)).save_to_disk(arguments.save_to_disk)
    if arguments.push_to_hub:
        assert arguments.hub_dataset_id is not None
        print(push_dataset(folder, arguments.hub_dataset_id, arguments.hub_private_repo))


def push_dataset(folder: Path, dataset_id: str, private: bool) -> str:
    """Upload the folder as it lies; returns the repository's URL.

    Rejected rows and dropped questions stay here: they are nobody's training data. The token is that of `hf auth login`
    or HF_TOKEN.
    """
    api = HfApi()
    url = api.create_repo(dataset_id, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(
        repo_id=url.repo_id,
        repo_type="dataset",
        folder_path=folder,
        ignore_patterns=["rejected/*", "dropped.parquet"],
        delete_patterns=["data/*", "images/*"],
        commit_message="Data set",
    )
    return str(url)
