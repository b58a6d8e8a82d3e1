"""Limits of the speech service against clients that are slow, large, many or unknown."""

import hmac
import ipaddress
from asyncio import TimerHandle
from typing import Any

import h11
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_BODY_BYTES = 65_536  # 4096 characters, each escaped in JSON
REQUEST_SECONDS = 15.0  # for a request to arrive as a whole
MAX_CONNECTIONS = 512


class TimedProtocol(H11Protocol):
    """HTTP/1.1 with a time limit for the arrival of a request: a client that sends a byte a second is cut off."""

    _timer: "TimerHandle | None" = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(REQUEST_SECONDS, self._cut_off)

    def _cut_off(self) -> None:
        self._timer = None
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.transport.close()

    def connection_lost(self, exc: "Exception | None") -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)


class LimitRequests:
    """An ASGI application that passes on requests of known clients, of at most MAX_BODY_BYTES.

    Args:
        key: that clients send as `Authorization: Bearer KEY`; None for no key.
    """

    def __init__(self, app: Any, key: "str | None") -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Request(scope).headers
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if self.key is not None and not hmac.compare_digest(given.encode(), self.key.encode()):
            await answer_error(401, "wrong or missing key: set OPENAI_API_KEY at the client")(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            await answer_error(413, f"the body is larger than {MAX_BODY_BYTES} bytes")(scope, receive, send)
            return
        received = 0

        async def receive_some() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
            return message

        await self.app(scope, receive_some, send)


def answer_error(status: int, message: str, headers: "dict[str, str] | None" = None) -> JSONResponse:
    """Return an error in OpenAI's format."""
    kind = "overloaded" if status in (429, 503) else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind}}, status, headers)


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
