"""The Hub for tests over HTTP, and its failures on demand.

`HF_HUB_DISABLE_XET=1` has to be set in its clients: it knows the older protocol of large files alone.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.http_server import LocalServer
from tests.support.hub.handler import Handler
from tests.support.hub.store import LARGE, Blob, Repository, Store, git_hash

FAULTS = ("500", "429", "cut", "lost")


@dataclass
class Fault:
    """A failure of one request, or of all from it on.

    Args:
        kind: "500", "429" (with Retry-After), "cut" (the connection ends in the middle of the request's body, or
            before a reply), "lost" (the work is done, and its reply does not arrive).
        at: the number of the request, from 0.
        lasting: all later requests fail too.
    """

    kind: str
    at: int
    lasting: bool = False

    def hits(self, number: int) -> bool:
        return number >= self.at if self.lasting else number == self.at


class HubServer(LocalServer):
    """Server on a free local port for the duration of a `with` block.

    Attributes:
        endpoint: for HF_ENDPOINT.
        store: the repositories.
        requests: "METHOD path" of every request so far.
        fault: the failure to come; None for none.
        refused: path -> status and message of requests that are refused for good.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = None if folder else tempfile.TemporaryDirectory()
        self.store = Store(folder or Path(self._folder.name))  # type: ignore[union-attr]
        self.requests: list[str] = []
        self.fault: Fault | None = None
        self.refused: dict[str, tuple[int, str]] = {}
        self.uploaded_bytes = 0
        super().__init__(type("BoundHandler", (Handler,), {"hub": self}))

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        if self._folder is not None:
            self._folder.cleanup()

    def break_down(self, kind: str, at: int = 0, lasting: bool = False) -> None:
        """Let the request with number `at` from now on fail."""
        self.fault = Fault(kind, len(self.requests) + at, lasting)

    def repair(self) -> None:
        self.fault = None

    def find(self, repo_id: str, repo_type: str = "model") -> Repository:
        return self.store.repositories[f"{repo_type}s", repo_id]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Return path -> content of a repository."""
        commit = self.find(repo_id, repo_type).find(revision)
        assert commit is not None
        return {path: self.store.read(blob) for path, blob in commit.files.items()}

    def add_folder(self, repo_id: str, folder: Path, repo_type: str = "model") -> Repository:
        """Make a repository with the files of a folder."""
        repository = self.create(repo_id, repo_type)
        blobs = {}
        for file in sorted(folder.rglob("*")):
            content, path = file.read_bytes() if file.is_file() else b"", file.relative_to(folder).as_posix()
            if file.is_file() and LARGE.fullmatch(path):
                digest = hashlib.sha256(content).hexdigest()
                self.store.large_file(digest).write_bytes(content)
                blobs[path] = Blob(digest, len(content))
            elif file.is_file():
                blobs[path] = Blob(git_hash(content), len(content), content)
        repository.add("main", "folder", blobs)
        return repository

    def add_file(self, repository: Repository, path: str, content: bytes) -> None:
        """Commit one regular file."""
        blob = Blob(git_hash(content), len(content), content)
        repository.add("main", path, {**repository.head.files, path: blob})

    def create(self, repo_id: str, repo_type: str = "model", private: bool = False, **files: str) -> Repository:
        """Make a repository; files with __ for a dot."""
        repository = self.store.repositories[f"{repo_type}s", repo_id] = Repository(private)
        blobs = {}
        for name, text in files.items():
            content = text.encode()
            blobs[name.replace("__", ".")] = Blob(git_hash(content), len(content), content)
        if blobs:
            repository.add("main", "files", blobs)
        return repository
