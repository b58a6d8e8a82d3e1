"""Tests that secrets are in no message and no file."""

import pytest

from data_builders.clients.openai import connect, map_request_errors
from data_builders.redaction import hide_passwords
from tests.support.http_server import JsonHandler, LocalServer

KEY = "sk-ThisKeyMustNeverLeaveMemory"


class Echo(JsonHandler):
    """Refuses every request, and repeats the key that came with it."""

    def do_POST(self) -> None:
        self.read_body()
        self.reply(400, {"error": {"message": f"bad key {self.headers['Authorization']}"}})


def test_a_key_that_a_server_repeats_is_in_no_message(monkeypatch):
    """Prevents: keys in rejected rows and logs, which are shared."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refusal = pytest.raises(ValueError, match=r"bad key Bearer \*\*\*")
    with LocalServer(Echo) as server, refusal as refused, map_request_errors(server.url):
        connect(server.url).chat.completions.create(model="m", messages=[])
    assert KEY not in str(refused.value)


def test_passwords_of_urls_are_in_no_resolved_config():
    """Prevents: a password of a teacher's server in resolved.yaml, and from there on the Hub."""
    given = {"teacher_base_url": "http://me:secret@host:8000/v1", "seed": 1, "channels": ["t2t"]}
    assert hide_passwords(given) == {"teacher_base_url": "http://host:8000/v1", "seed": 1, "channels": ["t2t"]}
