"""OpenAI-compatible servers (vLLM, `transformers serve`, a speech service) and the meaning of their errors.

The `openai` client retries connections, 429 and 5xx with exponential back-off and obeys Retry-After. Its key comes from
OPENAI_API_KEY.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI

from data_builders.outcomes import ServerUnreachable, TemporaryFailure
from data_builders.redaction import hide_credentials, hide_secrets

RETRIES = 5
RETRIED_STATUS_CODES = (408, 409, 429)
MESSAGE_CHARACTERS = 300


def connect(base_url: str, timeout_seconds: float = 600.0) -> OpenAI:
    """Return a client of the server at `base_url`, for instance http://localhost:8000/v1."""
    return OpenAI(
        base_url=base_url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        max_retries=RETRIES,
        timeout=timeout_seconds,
    )


@contextmanager
def map_request_errors(base_url: str) -> Iterator[None]:
    """Translate the client's errors, after its retries.

    Raises:
        ValueError: the server refuses this request, and would again.
        TemporaryFailure: the server was overloaded or failed on every try.
        ServerUnreachable: the server does not answer, or not to us.
    """
    base_url = hide_credentials(base_url)
    try:
        yield
    except APIStatusError as error:
        message = hide_secrets(" ".join(str(error.message).split()))[:MESSAGE_CHARACTERS]
        if error.status_code >= 500 or error.status_code in RETRIED_STATUS_CODES:
            raise TemporaryFailure(
                f"{base_url} failed {RETRIES + 1} times, at last with HTTP {error.status_code}: {message}"
            ) from error
        if error.status_code in (401, 403, 404):
            raise ServerUnreachable(f"{base_url}: HTTP {error.status_code}: {message}") from error
        raise ValueError(f"{base_url} refused the request with HTTP {error.status_code}: {message}") from error
    except APITimeoutError as error:
        raise TemporaryFailure(f"{base_url} timed out {RETRIES + 1} times") from error
    except APIConnectionError as error:
        raise ServerUnreachable(
            f"{base_url} cannot be reached ({error.__cause__ or error}): start the server and run this again to resume"
        ) from error
