"""An OpenAI-compatible server: vLLM, `transformers serve`, a speech service; what its errors mean for a row.

The `openai` client retries connections, 429 and 5xx with exponential back-off, and obeys Retry-After; its key comes
from OPENAI_API_KEY.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI

from data_builders.clients.concurrent import ServerUnreachable, TemporaryFailure

RETRIES = 5
TRY_LATER = (408, 409, 429)


def connect(base_url: str, timeout_seconds: float = 600.0) -> OpenAI:
    """A client of the server at `base_url`, for instance http://localhost:8000/v1."""
    return OpenAI(
        base_url=base_url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        max_retries=RETRIES,
        timeout=timeout_seconds,
    )


@contextmanager
def map_request_errors(base_url: str) -> Iterator[None]:
    """Turn the client's errors, after its retries, into what they mean.

    Raises:
        ValueError: the server refuses this request, and would again.
        TemporaryFailure: it was overloaded or failed every time.
        ServerUnreachable: it does not answer.
    """
    try:
        yield
    except APIStatusError as error:
        said = " ".join(str(error.message).split())[:300]
        if error.status_code >= 500 or error.status_code in TRY_LATER:
            raise TemporaryFailure(
                f"{base_url} failed {RETRIES + 1} times, at last with HTTP {error.status_code}: {said}"
            ) from error
        if error.status_code in (401, 403, 404):
            raise ServerUnreachable(f"{base_url}: HTTP {error.status_code}: {said}") from error
        raise ValueError(f"{base_url} refused it with HTTP {error.status_code}: {said}") from error
    except APITimeoutError as error:
        raise TemporaryFailure(f"{base_url} took too long, {RETRIES + 1} times") from error
    except APIConnectionError as error:
        raise ServerUnreachable(
            f"{base_url} cannot be reached ({error.__cause__ or error}): start it, and run this again to go on"
        ) from error
