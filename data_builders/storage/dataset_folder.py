"""A finished data set: loaded from its folder or the Hub, written as Arrow files, pushed."""

from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset, load_from_disk
from huggingface_hub import HfApi

from data_builders.schema import FEATURES


def load_dataset_folder(name: str) -> Any:
    """Load a data set of build_data.py or `save_to_disk`, or one of the Hub; speech stays undecoded."""
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


def push_dataset(folder: Path, dataset_id: str, private: bool) -> str:
    """Upload a data set folder in as few commits as the Hub's limits allow; returns the repository's URL.

    Rejected rows and dropped questions stay local. The token is that of `hf auth login` or HF_TOKEN.
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
