"""Requests to the Hub: which failures pass by themselves, and what a person can do about the others.

`huggingface_hub` retries uploads and file lists, but not the creation of a repository, the validation of a card or a
commit. Here a whole step is tried again; it must be one that can be repeated.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx2
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from data_builders.redaction import hide_secrets

logger = logging.getLogger(__name__)

ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 300.0
# Time-outs, a commit that came in between, rate limits; and all from 500.
TRANSIENT_STATUS_CODES = (408, 409, 412, 429)
MESSAGE_CHARACTERS = 300
RESET = re.compile(r"\bt=(\d+)")  # seconds: `ratelimit: "api";r=0;t=200`

Result = TypeVar("Result")


class PushRefused(ValueError):
    """A push that would be refused again: it needs other rights, another repository or another card."""


class PushFailed(Exception):
    """A push that failed on every attempt, and may succeed later."""


class NotPushed(Exception):
    """The end of finished work that could not be pushed; names the command that pushes it later."""


def retry(step: Callable[[], Result], place: str) -> Result:
    """Run a step until it succeeds; waits longer from attempt to attempt, or as long as the server asks.

    Args:
        place: the repository, for messages.

    Raises:
        PushRefused: it would fail again; says what to change.
        PushFailed: it failed on every attempt.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return step()
        except PushRefused:
            raise
        except Exception as error:
            causes = list(iterate_causes(error))
            if not any(map(is_transient, causes)):
                if any(isinstance(cause, httpx2.HTTPError | OSError) for cause in causes):
                    raise PushRefused(explain(error, place)) from error
                raise
            if attempt == ATTEMPTS:
                raise PushFailed(f"{place}: {ATTEMPTS} attempts failed, at last with {summarize(error)}") from error
            seconds = read_retry_after(causes) or 2.0**attempt
            if seconds > LONGEST_WAIT_SECONDS:
                raise PushFailed(f"{place} asks to wait {seconds / 60:.0f} minutes ({summarize(error)})") from error
            logger.warning(f"{place}: {summarize(error)}; trying again in {seconds:g} s")
            time.sleep(seconds)
    raise AssertionError("unreachable")


def iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that led to it; `huggingface_hub` wraps those of uploads."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed later."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status >= 500 or status in TRANSIENT_STATUS_CODES
    # A proxy's page in place of JSON; connections that end.
    return isinstance(error, httpx2.TransportError | json.JSONDecodeError | ConnectionError)


def read_retry_after(causes: list[BaseException]) -> float | None:
    """Return the seconds that a server asks to wait."""
    for error in causes:
        if isinstance(error, HfHubHTTPError):
            value = error.response.headers.get("Retry-After", "")
            reset = RESET.search(error.response.headers.get("ratelimit", ""))
            return float(value) if value.isdecimal() else float(reset[1]) + 1 if reset else None
    return None


def explain(error: BaseException, place: str) -> str:
    """Return what went wrong at a repository, and what to change, in one line."""
    error = next((cause for cause in iterate_causes(error) if isinstance(cause, HfHubHTTPError)), error)
    if isinstance(error, LocalTokenNotFoundError):
        return "not logged in to the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write"
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub cannot be reached, because HF_HUB_OFFLINE is set: unset it to push"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RevisionNotFoundError):
        return f"{place} has no such branch: make it on its page, or leave out hub_revision"
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        return (
            f"{place} does not know this token, or nothing of this name for it: run `hf auth login`, or set "
            "HF_TOKEN to a token that may write there"
        )
    if status == 403:
        return (
            f"the token may not write to {place} ({summarize(error)}): make one with the right to write there, then "
            "run `hf auth login` or set HF_TOKEN"
        )
    return f"{place}: {summarize(error)}"


def summarize(error: BaseException) -> str:
    """Return an error's status and message in one line, without the token."""
    message = str(error)
    if isinstance(error, HfHubHTTPError):
        message = f"HTTP {error.response.status_code}: {error.server_message or error.response.reason_phrase}"
    elif error.__cause__ is not None:
        return summarize(error.__cause__)
    return hide_secrets(" ".join(message.split()) or type(error).__name__)[:MESSAGE_CHARACTERS]
