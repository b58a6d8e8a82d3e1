"""The finished data set to the Hub: one process, as few commits as the Hub's limits allow."""

from pathlib import Path

from huggingface_hub import HfApi


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
