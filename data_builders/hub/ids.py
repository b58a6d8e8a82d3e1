"""Names of models and data sets: Hub ids, with a revision (user/name@revision) or without, and local folders."""

from pathlib import Path


def split_revision(name: str, default: str | None = None) -> tuple[str, str | None]:
    """Return name and revision; a folder of this machine has none."""
    if Path(name).exists() or "@" not in name:
        return name, default
    repository, _, revision = name.rpartition("@")
    return repository, revision


def public_name(name_or_path: str) -> str:
    """Return a Hub id as it is, and a local folder by its name alone."""
    return Path(name_or_path).resolve().name if is_local(name_or_path) else name_or_path


def is_local(name_or_path: str) -> bool:
    """Tell whether a model or a data set is a folder or a file of this machine."""
    return Path(name_or_path).is_absolute() or Path(name_or_path).exists()
