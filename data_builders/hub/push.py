"""Push files to a repository in one commit: all of them arrive, or none.

Large files are uploaded first. Those that the Hub has already are not sent again, so a push that was killed resumes.
"""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, get_token

from data_builders.hub.contents import NEW_REPOSITORY, Contents, read_contents
from data_builders.hub.repository import CARD, Repository, list_files, read_head
from data_builders.hub.requests import PushFailed, PushRefused, retry

TEXT_FILES = (".md", ".json", ".yaml", ".txt", ".py", ".html")
TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
BLOCK_BYTES, OVERLAP_BYTES = 1 << 22, 1 << 10


@dataclass(frozen=True)
class UploadFile:
    """A file's path in the repository, and its place on disk or its content."""

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()

    def read_blocks(self) -> Iterator[bytes]:
        """Yield the content in blocks that overlap."""
        if isinstance(self.source, bytes):
            yield self.source
            return
        with self.source.open("rb") as stream:
            last = b""
            while block := stream.read(BLOCK_BYTES):
                yield last + block
                last = block[-OVERLAP_BYTES:]


@dataclass(frozen=True)
class Upload:
    """Files and contents of one push.

    Attributes:
        contents: recorded in the card, which is one of the files.
        files: in the order of their paths.
        managed: patterns of the files that such a push writes; those in the repository that are not among `files` are
            of an earlier push, and are deleted.
    """

    contents: Contents
    files: Sequence[UploadFile]
    managed: Sequence[str]

    def show(self) -> Iterator[str]:
        """Yield a line for each file, and their sum."""
        for file in self.files:
            yield f"{file.size:>15,}  {file.path}"
        yield f"{sum(file.size for file in self.files):>15,}  bytes in {len(self.files)} files, {self.contents}"


def collect_files(folder: Path, patterns: Sequence[str]) -> list[UploadFile]:
    """Return the files of a folder that an allow-list names.

    Raises:
        PushRefused: one of them is a link out of the folder, or to nothing.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not matches(name, patterns) or path.is_dir():
            continue
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise PushRefused(f"{path} is a link out of its folder: put the file itself there")
        found.append(UploadFile(name, path))
    return found


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Tell whether a path matches a pattern folder by folder: `*` matches no slash, `**` at the end any."""
    parts = path.split("/")
    for pattern in patterns:
        wanted = pattern.split("/")
        here = parts[: len(wanted) - 1] + ["**"] if wanted[-1] == "**" and len(parts) >= len(wanted) else parts
        if len(here) == len(wanted) and all(map(fnmatch.fnmatchcase, here, wanted)):
            return True
    return False


def check_upload(upload: Upload, folder: Path) -> None:
    """Raise PushRefused for an upload without its card, or with a token or a path of this machine in a text file.

    Args:
        folder: the folder that is pushed; a file that names it would name it to strangers.
    """
    files = {file.path: file for file in upload.files}
    if CARD not in files or read_contents(files[CARD].read().decode()) != upload.contents:
        raise PushRefused(f"{folder} has no {CARD} that says it holds {upload.contents}")
    places = [f"{path}/".encode() for path in {folder.resolve(), Path.cwd(), Path.home()} if path != Path("/")]
    for file in upload.files:
        if file.path.endswith(TEXT_FILES):
            for block in file.read_blocks():
                check_block(file.path, block, places)


def check_block(name: str, block: bytes, places: Sequence[bytes]) -> None:
    """Raise PushRefused for a part of a text file with a token or a path of this machine."""
    token = get_token()
    if (token and token.encode() in block) or TOKEN.search(block):
        raise PushRefused(f"{name} contains a token of the Hub: take it out, and revoke the token")
    if found := next((place for place in places if place in block), None):
        raise PushRefused(f"{name} names a folder of this machine ({found.decode()}): take it out")


def push(upload: Upload, repository: Repository, message: str) -> str:
    """Push in one commit, and verify that every file arrived; returns the commit's URL.

    Args:
        repository: claimed by `claim_repository`.

    Raises:
        PushRefused: it would be refused again; nothing was changed.
        PushFailed: it failed on every attempt. The repository is as before, or complete.
    """
    api = HfApi()

    def attempt() -> str:
        head = read_head(repository, upload.contents)
        if head is None:
            raise PushRefused(f"{repository.id} is gone, or may not be read any more with this token")
        ours = {file.path for file in upload.files}
        others = [path for path in head.files if path not in ours and path not in NEW_REPOSITORY]
        stale = [path for path in others if not head.is_ours or matches(path, upload.managed)]
        operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *(CommitOperationDelete(path, is_folder=False) for path in stale),
            *(CommitOperationAdd(file.path, file.source) for file in upload.files),
        ]
        commit = api.create_commit(
            repository.id,
            operations,
            commit_message=message,
            repo_type=repository.type,
            revision=repository.branch,
            parent_commit=head.commit,
        )
        arrived = list_files(api, repository, commit.oid)
        if missing := [file.path for file in upload.files if arrived.get(file.path) != file.size]:
            raise PushFailed(
                f"{repository.id} took the commit without {', '.join(missing[:3])}: does its .gitignore leave them out?"
            )
        return commit.commit_url

    return retry(attempt, repository.id)
