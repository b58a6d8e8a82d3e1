"""Who answers, named so that no other model can be taken for it."""

import hashlib
from pathlib import Path

from data_builders.arguments import BuildArguments


def fingerprint_teacher(arguments: BuildArguments) -> str | None:
    """Who answers: a folder's weights, a Hub commit, or a name that only its server knows more of."""
    name = arguments.teacher_model_name_or_path
    if name is None:
        return None
    if arguments.teacher_base_url is not None and not Path(name).is_dir():
        return f"{name}@{arguments.teacher_model_revision} by a server"
    return fingerprint_model(name, arguments.teacher_model_revision)


def fingerprint_model(name_or_path: str, revision: str = "main") -> str:
    """`id@commit` of a Hub model, or the name of a local folder with the hash of its weights."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        from transformers import AutoConfig

        # What is in the cache counts when there is no network.
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
        return f"{name_or_path}@{config._commit_hash}"
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no safetensors weights")
    for file in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"{folder.name}@{digest.hexdigest()[:12]}"
