"""OpenAI-compatible servers (vLLM, `transformers serve`, a speech service) and the meaning of their errors.

The `openai` client retries connections, 429 and 5xx with exponential back-off and obeys Retry-After. Its key comes from
OPENAI_API_KEY. Replies are read from their bytes here: the client takes an HTML page with status 200 for a completion.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openai import APIConnectionError, APIStatusError, APITimeoutError, DefaultHttpxClient, OpenAI

from data_builders.clients.limited_transport import LimitedTransport
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
        http_client=DefaultHttpxClient(transport=LimitedTransport(timeout_seconds)),
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
        raise TemporaryFailure(f"{base_url} timed out on every try") from error
    except APIConnectionError as error:
        raise ServerUnreachable(
            f"{base_url} cannot be reached ({error.__cause__ or error}): start the server and run this again to resume"
        ) from error


def read_reply(raw: Any, base_url: str) -> dict[str, Any]:
    """Return the JSON object of a raw reply.

    Raises:
        TemporaryFailure: it is none: an error page with status 200, for instance.
    """
    try:
        content = json.loads(raw.content)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise unreadable(base_url, raw.content)
    return content


def read_choice(reply: dict[str, Any], base_url: str) -> tuple[str, str]:
    """Return text and finish reason of a chat completion, or of a completion.

    Raises:
        TemporaryFailure: the reply is neither.
    """
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    reason = choice.get("finish_reason") or "stop"
    if text is None and isinstance(message, dict):  # a model that answers nothing
        text = ""
    if not isinstance(text, str) or not isinstance(reason, str):
        raise unreadable(base_url, json.dumps(reply).encode())
    return text.encode("utf-8", "ignore").decode(), reason  # without halves of surrogate pairs


def list_models(client: OpenAI, base_url: str) -> list[dict[str, Any]]:
    """Return the models of a server as it describes them.

    Raises:
        ServerUnreachable: it does not answer, or with something else than a list of models.
    """
    with map_request_errors(base_url):
        raw = client.models.with_raw_response.list()
    try:
        entries = read_reply(raw, base_url).get("data")
        if not isinstance(entries, list):
            raise unreadable(base_url, raw.content)
    except TemporaryFailure as error:
        raise ServerUnreachable(f"{error}. Is the URL complete, as http://localhost:8000/v1?") from error
    return [entry for entry in entries if isinstance(entry, dict)]


def unreadable(base_url: str, content: bytes) -> TemporaryFailure:
    """Return the failure of a reply that cannot be read, with its beginning."""
    shown = hide_secrets(" ".join(content[:MESSAGE_CHARACTERS].decode(errors="replace").split()))
    return TemporaryFailure(f"{hide_credentials(base_url)} sent a reply that cannot be read: {shown[:100]!r}")
