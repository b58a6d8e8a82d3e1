"""A server that answers JSON over real HTTP."""

import json
from collections.abc import Callable
from typing import Any

from tests.support.http_server import JsonHandler, LocalServer


class JsonServer(LocalServer):
    """Replies by functions.

    Args:
        post: headers in lower case, content of a POST -> status and content of the reply.
        get: content of the reply to every GET.
    """

    def __init__(self, post: Callable[[dict[str, str], Any], tuple[int, Any]], get: Any = None) -> None:
        class Handler(JsonHandler):
            def do_GET(self) -> None:
                self.reply(200, get, Retry_After="0.01")

            def do_POST(self) -> None:
                content = json.loads(self.read_body())
                status, told = post({key.lower(): value for key, value in self.headers.items()}, content)
                self.reply(status, told, Retry_After="0.01")

        super().__init__(Handler)


def make_completion(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    """Return a chat completion as OpenAI's interface gives it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
