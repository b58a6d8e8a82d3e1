"""A Hub for tests: a real HTTP server that takes commits and keeps their files in memory."""

import base64
import json
from typing import Any

from tests.support.http_server import JsonHandler, LocalServer


class HubServer(LocalServer):
    """Server on a free local port for the duration of a `with` block.

    Args:
        refuses_commits: answer every commit with an error.

    Attributes:
        endpoint: for HF_ENDPOINT.
        files: path in the repository -> content, of every commit so far.
        commits: how many commits were made.
    """

    def __init__(self, refuses_commits: bool = False) -> None:
        self.refuses_commits = refuses_commits
        self.files: dict[str, bytes] = {}
        self.repositories: set[str] = set()
        self.commits = 0
        hub = self

        class Handler(JsonHandler):
            def do_GET(self) -> None:
                if self.path == "/api/whoami-v2":
                    self.reply(200, {"name": "tester", "type": "user", "orgs": []})
                elif "/tree/" in self.path:
                    self.reply(
                        200,
                        [
                            {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                            for path, content in hub.files.items()
                        ],
                    )
                else:
                    self.reply(404, {"error": "not found"})

            def do_POST(self) -> None:
                content, status = hub.take(self.path.split("?")[0], self.read_body())
                self.reply(status, content)

        super().__init__(Handler)

    def take(self, path: str, body: bytes) -> tuple[Any, int]:
        """The answer to one POST."""
        if path == "/api/repos/create":
            name = json.loads(body)["name"]
            self.repositories.add(name)
            return {"url": f"{self.endpoint}/tester/{name}", "id": f"tester/{name}"}, 200
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}, 200
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}, 200
        if "/commit/" in path and self.refuses_commits:
            return {"error": "storage quota exceeded"}, 403
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.commits += 1
            name = path.split("/")[4]
            url = f"{self.endpoint}/tester/{name}/commit/{'0' * 40}"
            return {"commitUrl": url, "commitOid": "0" * 40, "success": True}, 200
        return {"error": f"nobody answers {path}"}, 404
