"""Secrets taken out of messages and files: the Hub's token, and user and password of a URL."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import get_token


def hide_credentials(url: str) -> str:
    """Return a URL without user and password."""
    return re.sub(r"(?<=//)[^/@]*@", "", url)


def hide_token(text: str) -> str:
    """Return a text without the token of this process, which a server may have repeated."""
    token = get_token()
    return text.replace(token, "hf_***") if token else text


def hide_passwords(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments, their URLs without user and password."""
    return {name: hide_credentials(value) if isinstance(value, str) else value for name, value in values.items()}
