"""HTTP replies of bounded size and time: a server can send without end, drop by drop, or a compressed gigabyte."""

import time
from collections.abc import Iterator

import httpx2

MAX_REPLY_BYTES = 64_000_000  # ten minutes of WAV; log-probabilities of 4,096 tokens and 64 ids are 21 million


class LimitedStream(httpx2.SyncByteStream):
    """The body of a reply, which ends with an error at the limits.

    Args:
        deadline: of time.monotonic().
    """

    def __init__(self, stream: httpx2.SyncByteStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for chunk in self._stream:
            received += len(chunk)
            if received > MAX_REPLY_BYTES:
                raise httpx2.RemoteProtocolError(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the reply did not end in time")
            yield chunk

    def close(self) -> None:
        self._stream.close()


class LimitedTransport(httpx2.HTTPTransport):
    """Sends requests, and reads replies within the limits; compressed ones, which were not asked for, are refused."""

    def __init__(self, max_seconds: float) -> None:
        super().__init__()
        self._max_seconds = max_seconds

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "identity"
        deadline = time.monotonic() + self._max_seconds
        response = super().handle_request(request)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise httpx2.RemoteProtocolError("the reply is compressed, which was not asked for")
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = LimitedStream(response.stream, deadline)
        return response
