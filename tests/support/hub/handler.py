"""The requests that the Hub for tests answers: whoami, create, preupload, large files, commit, tree, resolve."""

import hashlib
import json
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from data_builders.hub.contents import read_metadata
from tests.support.http_server import JsonHandler
from tests.support.hub.store import LARGE, Blob, Commit, Repository
from tests.support.hub.tokens import ROLES, WRITE

TYPES = "models|datasets|spaces"
CHUNK = 1 << 20


class Cut(Exception):
    """The connection ends without a reply."""


class Handler(JsonHandler):
    """One request. Routes are methods; what they return is sent as JSON."""

    hub: Any  # the server

    def do_GET(self) -> None:
        self.serve()

    do_POST = do_PUT = do_HEAD = do_GET

    def serve(self) -> None:
        """Answer the request, or fail as the server was told to."""
        hub, parts = self.hub, urlsplit(self.path)
        fault = hub.fault if hub.fault is not None and hub.fault.hits(len(hub.requests)) else None
        hub.requests.append(f"{self.command} {parts.path}")
        self.parameters = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        try:
            if fault is not None and fault.kind == "cut":
                self.rfile.read(min(100, int(self.headers.get("Content-Length", 0))))
                raise Cut
            if fault is not None and fault.kind != "lost":
                self.read_body()
                self.reply(int(fault.kind), {"error": "told to fail"}, Retry_After="1")
                return
            self.is_mute = fault is not None
            for path, (status, message) in hub.refused.items():
                if re.search(path, parts.path):
                    self.read_body()
                    self.reply(status, {"error": message})
                    return
            self.route(unquote(parts.path))
        except Cut:
            self.close_connection = True
            self.connection.close()

    def reply(self, status: int, content: Any, **headers: str) -> None:
        if getattr(self, "is_mute", False):
            raise Cut
        if status >= 400 and isinstance(content, dict):
            headers.setdefault("X_Error_Message", content["error"])
        super().reply(status, b"" if self.command == "HEAD" else content, **headers)

    # Rights

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def may_write(self) -> bool:
        return self.token == WRITE

    def find_repository(self, kind: str, repo_id: str) -> Repository | None:
        """Return the repository; replies 404 for a private one without a token, as huggingface.co does."""
        repository = self.hub.store.repositories.get((kind, repo_id))
        if repository is None or (repository.private and self.token not in ROLES):
            self.reply(404 if self.token else 401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return repository

    def find_writable(self, kind: str, repo_id: str) -> Repository | None:
        """Return the repository; replies 403 to a token that may only read."""
        repository = self.find_repository(kind, repo_id)
        if repository is not None and not self.may_write():
            self.reply(403, {"error": "Forbidden: you cannot write to this repository"})
            return None
        return repository

    def find_commit(self, repository: Repository, revision: str) -> Commit | None:
        commit = repository.find(revision)
        if commit is None:
            self.reply(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        return commit

    # Routes

    def route(self, path: str) -> None:
        """Find the route of a path and run it."""
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                getattr(self, method)(*match.groups())
                return
        self.read_body()
        self.reply(404, {"error": f"no route {self.command} {path}"})

    def whoami(self) -> None:
        if self.token not in ROLES:
            self.reply(401, {"error": "Invalid username or password."})
            return
        role = ROLES[self.token]
        access = {"displayName": f"a {role} token", "role": role}
        self.reply(200, {"name": "tester", "type": "user", "orgs": [], "auth": {"accessToken": access}})

    def create(self) -> None:
        asked = json.loads(self.read_body())
        if not self.may_write():
            self.reply(403, {"error": "You don't have the rights to create a model under the namespace"})
            return
        kind, repo_id = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'tester'}/{asked['name']}"
        if (kind, repo_id) in self.hub.store.repositories:
            self.reply(409, {"error": "You already created this repo", "url": f"{self.hub.endpoint}/{repo_id}"})
            return
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.hub.store.repositories[kind, repo_id] = Repository(private)
        prefix = "" if kind == "models" else f"{kind}/"
        self.reply(200, {"url": f"{self.hub.endpoint}/{prefix}{repo_id}", "id": repo_id, "name": repo_id})

    def validate_yaml(self) -> None:
        self.read_body()
        self.reply(200, {"errors": [], "warnings": []})

    def auth_check(self, kind: str, repo_id: str, write: str | None) -> None:
        if (self.find_writable if write else self.find_repository)(kind, repo_id) is not None:
            self.reply(200, {})

    def info(self, kind: str, repo_id: str, revision: str | None) -> None:
        repository = self.find_repository(kind, repo_id)
        commit = repository and self.find_commit(repository, revision or "main")
        if not (repository and commit):
            return
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        facts = {"id": repo_id, "modelId": repo_id, "sha": commit.oid, "private": repository.private}
        card = commit.files.get("README.md")
        if card is not None:
            facts["cardData"] = read_metadata(self.hub.store.read(card).decode())
        self.reply(200, {**facts, "siblings": siblings, "tags": [], "gated": False, "disabled": False, "downloads": 0,
                         "likes": 0})  # fmt: skip

    def refs(self, kind: str, repo_id: str) -> None:
        repository = self.find_repository(kind, repo_id)
        if repository is not None:
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
                for name, oid in repository.branches.items()
            ]
            self.reply(200, {"branches": branches, "converts": [], "tags": []})

    def branch(self, kind: str, repo_id: str, name: str) -> None:
        self.read_body()
        repository = self.find_repository(kind, repo_id)
        if repository is not None:
            repository.branches.setdefault(name, repository.head.oid)
            self.reply(200, {})

    def tree(self, kind: str, repo_id: str, revision: str, folder: str | None) -> None:
        repository = self.find_repository(kind, repo_id)
        commit = repository and self.find_commit(repository, revision)
        if not commit:
            return
        prefix = f"{folder.strip('/')}/" if folder else ""
        entries: dict[str, Any] = {}
        for path, blob in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            rest = path[len(prefix) :]
            recursive = self.parameters.get("recursive", "").lower() in ("true", "1")
            if "/" in rest and not recursive:
                name = prefix + rest.split("/")[0]
                entries[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            else:
                entries[path] = describe_file(path, blob)
        if prefix and not entries:
            self.reply(404, {"error": "path does not exist"}, X_Error_Code="EntryNotFound")
            return
        self.reply(200, list(entries.values()))

    def paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        body = self.read_body()
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        repository = self.find_repository(kind, repo_id)
        commit = repository and self.find_commit(repository, revision)
        if not commit:
            return
        found = []
        for path in [asked] if isinstance(asked, str) else asked:
            if path in commit.files:
                found.append(describe_file(path, commit.files[path]))
            elif any(name.startswith(f"{path.rstrip('/')}/") for name in commit.files):
                found.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self.reply(200, found)

    def preupload(self, kind: str, repo_id: str, branch: str) -> None:
        asked = json.loads(self.read_body())["files"]
        repository = self.find_writable(kind, repo_id)
        if repository is None:
            return
        commit = self.find_commit(repository, branch)
        if commit is None:
            return
        files = []
        for entry in asked:
            there = commit.files.get(entry["path"])
            mode = "lfs" if LARGE.fullmatch(entry["path"]) else "regular"
            known = {} if there is None else {"oid": there.oid}
            files.append({"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        self.reply(200, {"files": files})

    def large_file_batch(self, _: str, repo_id: str) -> None:
        objects = []
        for entry in json.loads(self.read_body())["objects"]:
            known = {"oid": entry["oid"], "size": entry["size"]}
            if not self.hub.store.large_file(entry["oid"]).exists():
                href = f"{self.hub.endpoint}/upload/{entry['oid']}"
                verify = {"href": f"{self.hub.endpoint}/verify/{entry['oid']}"}
                known["actions"] = {"upload": {"href": href}, "verify": verify}
            objects.append(known)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        """Stream a large file to disk; it is there once it is complete and its hash is right."""
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        part = self.hub.store.folder / f"{oid}.{id(self)}.part"
        with part.open("wb") as stream:
            while left:
                chunk = self.rfile.read(min(CHUNK, left))
                if not chunk:
                    part.unlink()
                    raise Cut
                digest.update(chunk)
                stream.write(chunk)
                left -= len(chunk)
                self.hub.uploaded_bytes += len(chunk)
        if digest.hexdigest() != oid:
            part.unlink()
            self.reply(400, {"error": "hash mismatch"})
            return
        part.rename(self.hub.store.large_file(oid))
        self.reply(200, {}, ETag=oid)

    def verify(self, oid: str) -> None:
        self.read_body()
        self.reply(200 if self.hub.store.large_file(oid).exists() else 404, {"error": ""})

    def commit(self, kind: str, repo_id: str, branch: str) -> None:
        lines = [json.loads(line) for line in self.read_body().splitlines()]
        repository = self.find_writable(kind, repo_id)
        if repository is None:
            return
        if self.find_commit(repository, branch) is None:
            return
        try:
            commit = self.hub.store.commit(repository, branch, lines)
        except BlockingIOError:
            self.reply(412, {"error": "A commit has happened since. Please refresh and try again."})
        except FileNotFoundError:
            self.reply(400, {"error": "LFS pointer pointed to a file that does not exist"})
        except KeyError:
            self.reply(404, {"error": "A file with this name doesn't exist"}, X_Error_Code="EntryNotFound")
        else:
            url = f"{self.hub.endpoint}/{repo_id}/commit/{commit.oid}"
            self.reply(200, {"commitUrl": url, "commitOid": commit.oid, "success": True})

    def resolve(self, kind: str | None, repo_id: str, revision: str, path: str) -> None:
        """Send a file or a range of it, with the headers from which clients learn hash and commit."""
        repository = self.find_repository(kind or "models", repo_id)
        commit = repository and self.find_commit(repository, revision)
        if not commit:
            return
        blob = commit.files.get(path)
        if blob is None:
            self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit.oid)
            return
        content, status = self.hub.store.read(blob), 200
        headers = {"ETag": f'"{blob.oid}"', "X_Repo_Commit": commit.oid, "Accept_Ranges": "bytes"}
        if blob.is_large:
            headers |= {"X_Linked_Etag": f'"{blob.oid}"', "X_Linked_Size": str(blob.size)}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            content, status = content[first : last + 1], 206
        if self.command == "HEAD":
            self.send_response(status)
            for name, value in {**headers, "Content_Length": str(len(content))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
        else:
            self.reply(status, content, **headers)


def describe_file(path: str, blob: Blob) -> dict[str, Any]:
    """Return a file's entry in a tree."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    if blob.is_large:
        entry["lfs"] = {"oid": blob.oid, "size": blob.size, "pointerSize": 130}
    return entry


API = rf"/api/({TYPES})/([\w.-]+/[\w.-]+)"
REVISION = r"((?:refs/[\w-]+/)?[^/]+)"
ROUTES = [
    (r"/api/whoami-v2", "whoami"),
    (r"/api/repos/create", "create"),
    (r"/api/validate-yaml", "validate_yaml"),
    (API + r"/auth-check(/write)?", "auth_check"),
    (API + rf"(?:/revision/{REVISION})?", "info"),
    (API + r"/refs", "refs"),
    (API + rf"/branch/{REVISION}", "branch"),
    (API + rf"/tree/{REVISION}(/.*)?", "tree"),
    (API + rf"/paths-info/{REVISION}", "paths_info"),
    (API + rf"/preupload/{REVISION}", "preupload"),
    (API + rf"/commit/{REVISION}", "commit"),
    (rf"/(?:({TYPES})/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", "large_file_batch"),
    (r"/upload/(\w+)", "upload"),
    (r"/verify/(\w+)", "verify"),
    (rf"/(?:({TYPES})/)?([\w.-]+/[\w.-]+)/resolve/{REVISION}/(.+)", "resolve"),
]
