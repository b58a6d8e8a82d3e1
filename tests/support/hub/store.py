"""Repositories of the Hub for tests: commits, their files, and large files by hash."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Files that huggingface.co stores as large ones, by .gitattributes.
LARGE = re.compile(r".*\.(safetensors|parquet|arrow|bin|pt|pth|png|flac|wav|npy|msgpack)$")


def git_hash(content: bytes) -> str:
    """Return the SHA-1 of a git blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """One file of a commit.

    Attributes:
        oid: SHA-1 of a regular file, SHA-256 of a large one.
        content: of a regular file; None for a large one, which the store has on disk.
    """

    oid: str
    size: int
    content: bytes | None = None

    @property
    def is_large(self) -> bool:
        return self.content is None


@dataclass(frozen=True)
class Commit:
    """The state of a repository."""

    oid: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repository:
    """Commits by their hash, and branches."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    log: list[Commit] = field(default_factory=list)  # in the order of their arrival

    def __post_init__(self) -> None:
        self.add("main", "initial commit", {})
        self.log.clear()

    def add(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        tree = json.dumps({path: blob.oid for path, blob in sorted(files.items())})
        commit = Commit(hashlib.sha1(f"{len(self.commits)}{tree}".encode()).hexdigest(), title, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        self.log.append(commit)
        return commit

    def find(self, revision: str) -> Commit | None:
        """Return a commit by its hash or by a branch."""
        return self.commits.get(self.branches.get(revision, revision))

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]


class Store:
    """All repositories, by type and id, and the large files that were uploaded.

    Args:
        folder: place of the large files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repositories: dict[tuple[str, str], Repository] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def large_file(self, oid: str) -> Path:
        return self.folder / oid

    def read(self, blob: Blob) -> bytes:
        return self.large_file(blob.oid).read_bytes() if blob.content is None else blob.content

    def commit(self, repository: Repository, branch: str, lines: list[dict[str, Any]]) -> Commit:
        """Apply the lines of a commit's body.

        Raises:
            KeyError: a deleted file does not exist.
            FileNotFoundError: a large file was never uploaded.
            BlockingIOError: the branch has moved on from the parent that the commit names.
        """
        files, title = dict(repository.commits[repository.branches[branch]].files), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, repository.branches[branch]):
                    raise BlockingIOError(value["parentCommit"])
            elif line["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = Blob(git_hash(content), len(content), content)
            elif line["key"] == "lfsFile":
                size = self.large_file(value["oid"]).stat().st_size
                files[value["path"]] = Blob(value["oid"], size)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise KeyError(line["key"])
        return repository.add(branch, title, files)
