"""Names of models by their content, so that no other model is taken for them."""

import hashlib
from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from data_builders.arguments import AnswerArguments
from data_builders.storage.atomic import hash_file


def fingerprint_teacher(arguments: AnswerArguments) -> str | None:
    """Return the fingerprint of the teacher that answers; None where there is none.

    Behind a server a model is known by its name alone, unless the name is a local folder. A quantized teacher has a
    label: its answers are not those of the unquantized one.
    """
    name = arguments.teacher_model_name_or_path
    if name is None:
        return None
    if arguments.teacher_base_url is not None and not Path(name).is_dir():
        return f"{name}@{arguments.teacher_model_revision} by a server"
    label = " in 4-bit" if arguments.teacher_load_in_4bit else ""
    return fingerprint_model(name, arguments.teacher_model_revision) + label


def fingerprint_model(name_or_path: str, revision: str = "main") -> str:
    """Return `id@commit` of a Hub model, or a local folder's name with the hash of its weights."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        # Without a network the cache's commit counts.
        config = cached_file(name_or_path, CONFIG_NAME, revision=revision)
        return f"{name_or_path}@{extract_commit_hash(config, None)}"
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no safetensors weights")
    digest = hashlib.sha256()
    for file in weights:
        digest.update(bytes.fromhex(hash_file(file)))
    return f"{folder.name}@{digest.hexdigest()[:12]}"
