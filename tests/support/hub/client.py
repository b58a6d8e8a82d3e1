"""Settings with which a process talks to the Hub for tests."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets.config
import pytest
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import close_session

from tests.support.hub.server import HubServer
from tests.support.hub.tokens import WRITE


def environment(hub: HubServer, token: str | None = WRITE, home: Path | None = None) -> dict[str, str]:
    """Return the variables of a process of its own.

    Args:
        token: None for a visitor without one.
        home: an empty cache, so that everything is downloaded.
    """
    variables = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": token or "",
    }
    return variables if home is None else {**variables, "HF_HOME": str(home)}


@contextmanager
def talk_to(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `huggingface_hub` in this process talk to a server, without pauses between attempts."""
    with tempfile.TemporaryDirectory() as cache:
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": cache,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(cache))
        monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)  # of the functions at the top of the package
        monkeypatch.setenv("HF_TOKEN", WRITE)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        close_session()  # that of an earlier server, or offline
        yield
        close_session()
