"""A Hub for tests: a real HTTP server that takes commits and keeps their files in memory."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubServer:
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

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/api/whoami-v2":
                    self.answer({"name": "tester", "type": "user", "orgs": []})
                elif "/tree/" in self.path:
                    self.answer(
                        [
                            {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                            for path, content in hub.files.items()
                        ]
                    )
                else:
                    self.answer({"error": "not found"}, 404)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.answer(*hub.take(self.path.split("?")[0], body))

            def answer(self, content: Any, status: int = 200) -> None:
                payload = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

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

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
