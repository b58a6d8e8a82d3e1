"""Secrets taken out of messages and files: the Hub's token, a server's key, and user and password of a URL."""

import os
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import get_token

SHORTEST_SECRET = 8  # "none" is the key of a server without one


def hide_credentials(url: str) -> str:
    """Return a URL without user and password."""
    return re.sub(r"(?<=//)\S*@", "", url)


def hide_secrets(text: str) -> str:
    """Return a text without this process's token of the Hub and key of a server, which a server may have repeated."""
    for secret, shown in ((get_token(), "hf_***"), (os.environ.get("OPENAI_API_KEY"), "***")):
        if secret and len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, shown)
    return text


def hide_passwords(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments, their URLs without user and password."""
    return {name: hide_credentials(value) if isinstance(value, str) else value for name, value in values.items()}
