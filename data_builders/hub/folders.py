"""Folders that are pushed: which of their files, and under which kind of repository."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_builders.hub.contents import Contents, read_contents, sign_card
from data_builders.hub.push import Upload, UploadFile, check_upload, collect_files, matches
from data_builders.hub.repository import CARD, Repository
from data_builders.hub.requests import NotPushed, PushFailed, PushRefused

# The owner in the cards of folders that were not pushed yet: their snippets name your-name/<folder>.
OWNER = "your-name"


def local_id(folder: Path) -> str:
    """Return the repository id that a folder's card names before it is pushed."""
    return f"{OWNER}/{repository_name(folder)}"


def repository_name(folder: Path) -> str:
    """Return a folder's name as that of a repository: letters, digits, `-`, `_` and `.`."""
    return re.sub(r"[^\w.-]+|(?<=[-.])[-.]+", "-", folder.resolve().name, flags=re.ASCII).strip("-.") or "model"


@dataclass(frozen=True)
class FolderKind:
    """One kind of folder.

    Attributes:
        name: of its contents, see `Contents.kind`.
        marker: pattern of a file that tells the kind; kinds are tried in the order of their table.
        patterns: allow-list of its files.
        required: patterns of files without which it is worth nothing.
        contents: kinds that its card may record; none but its name, if empty.
        repo_type: type of its repositories.
        rewrite: returns new contents of files that name places of this machine, by path; its arguments are the folder
            and the contents that the card records.
    """

    name: str
    marker: str
    patterns: Sequence[str]
    required: Sequence[str]
    contents: Sequence[str] = ()
    repo_type: str = "model"
    space_sdk: str | None = None
    rewrite: Callable[[Path, Contents], Mapping[str, bytes]] = lambda folder, contents: {}

    def fits(self, folder: Path) -> bool:
        return any(folder.glob(self.marker))

    def check(self, folder: Path, contents: Contents, files: Mapping[str, UploadFile]) -> None:
        """Raise PushRefused for a folder of another kind, or without a file that it needs."""
        if contents.kind not in (self.name, *self.contents):
            raise PushRefused(f"{folder} is no {self.name}: its card says that it holds {contents}")
        for pattern in self.required:
            if not any(matches(path, [pattern]) for path in files):
                raise PushRefused(f"{folder} has no {pattern}, without which nobody can use it")
        for path, file in files.items():
            if path.endswith(".safetensors.index.json"):
                beside = path.rpartition("/")[0]
                promised = {f"{beside}/{name}".lstrip("/") for name in json.loads(file.read())["weight_map"].values()}
                if missing := sorted(promised - files.keys()):
                    raise PushRefused(f"{folder} has no {missing[0]}, which {path} names")


DATASET = FolderKind(
    name="dataset",
    marker="data/*.parquet",
    patterns=[CARD, "data/*.parquet", "images/*.png", "manifest.json"],
    required=["data/*.parquet"],
    repo_type="dataset",
)
SOFT_TARGETS = FolderKind(
    name="soft_targets",
    marker="data-*.arrow",
    patterns=[CARD, "data-*.arrow", "dataset_info.json"],
    required=["data-*.arrow"],
    repo_type="dataset",
)


def make_upload(
    folder: Path,
    kind: FolderKind,
    repository_id: str,
    card: str | None = None,
    added: Mapping[str, Path | bytes] | None = None,
) -> Upload:
    """Return the files of a folder as they are pushed: its card names the repository, and no file a local path.

    Args:
        card: in place of the folder's own.
        added: further files, path in the repository -> file or content.

    Raises:
        PushRefused: there is no card of this project, or a text file has a token or a path of this machine.
    """
    file = folder / CARD
    if card is None and file.is_file():
        card = file.read_text(encoding="utf-8")
    contents = None if card is None else read_contents(card)
    if card is None or contents is None:
        raise PushRefused(
            f"{folder} has no {CARD} of this project, which says what it holds: push a folder that a recipe has made"
        )
    rewritten = dict(kind.rewrite(folder, contents))
    named = re.sub(rf"\b{OWNER}/[\w.-]*\w", repository_id, card, flags=re.ASCII)
    rewritten[CARD] = sign_card(named).encode()
    files = {file.path: file for file in collect_files(folder, kind.patterns)}
    files |= {path: UploadFile(path, source) for path, source in {**(added or {}), **rewritten}.items()}
    kind.check(folder, contents, files)
    upload = Upload(contents, [files[path] for path in sorted(files)], kind.patterns)
    check_upload(upload, folder)
    return upload


@contextmanager
def keep_on_disk(folder: Path, repository: Repository) -> Iterator[None]:
    """Name the command that pushes a folder later, if its push fails.

    Raises:
        NotPushed: the push failed or was refused.
    """
    try:
        yield
    except (PushFailed, PushRefused) as error:
        words = ["python", "recipes/push.py", str(folder), repository.id]
        words += ["--hub_private_repo", "true"] if repository.private else []
        words += ["--hub_revision", repository.branch] if repository.branch else []
        words += ["--overwrite_repository", "true"] if repository.overwrite else []
        raise NotPushed(f"{error}. Everything is in {folder}; push it later by: {shlex.join(words)}") from error
