"""A judge behind real HTTP that replies as it is told: well, in prose, slowly, or with an error."""

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.support.json_server import JsonServer, make_completion

Reply = str | int | float  # a text, an HTTP status, or seconds to wait before a text


class JudgeServer(JsonServer):
    """An OpenAI-compatible chat for the `with` block.

    Args:
        decide: number of the request, prompt -> reply.

    Attributes:
        requests: how many came.
        headers: of the last request.
    """

    def __init__(self, decide: Callable[[int, str], Reply]) -> None:
        self.requests, self.headers, self._decide = 0, {}, decide
        self._lock = threading.Lock()
        super().__init__(self._reply)

    def _reply(self, headers: dict[str, str], content: Any) -> tuple[int, Any]:
        with self._lock:
            self.requests += 1
            number, self.headers = self.requests, headers
        reply = self._decide(number, content["messages"][-1]["content"])
        if isinstance(reply, float):
            time.sleep(reply)
            reply = "3"
        if isinstance(reply, int):
            return reply, {"error": {"message": "told to fail"}}
        return 200, make_completion(reply)
