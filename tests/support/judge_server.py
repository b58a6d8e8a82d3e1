"""A judge behind real HTTP that replies as it is told: well, in prose, slowly, or with an error."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | int | float  # a text, an HTTP status, or seconds to wait before a text


class JudgeServer:
    """An OpenAI-compatible chat for the `with` block.

    Args:
        decide: number of the request, prompt -> reply.

    Attributes:
        requests: how many came.
        headers: of the last request.
    """

    def __init__(self, decide: Callable[[int, str], Reply]) -> None:
        self.requests, self.headers = 0, {}
        judge, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    judge.requests += 1
                    number, judge.headers = judge.requests, {key.lower(): value for key, value in self.headers.items()}
                reply = decide(number, body["messages"][-1]["content"])
                if isinstance(reply, float):
                    time.sleep(reply)
                    reply = "3"
                if isinstance(reply, int):
                    self.send(reply, {"error": {"message": "told to fail"}})
                else:
                    message = {"role": "assistant", "content": reply}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    self.send(
                        200, {"id": "1", "object": "chat.completion", "created": 1, "model": "j", "choices": [choice]}
                    )

            def send(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Retry-After", "0.01")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "JudgeServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
