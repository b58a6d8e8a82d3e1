"""Attacks on the speech service by its clients: many, slow, large, unknown."""

import importlib
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import psutil
import pytest
import uvicorn

from tests.support.attacks import SCALE
from tests.support.lab import ROOT
from tests.support.processes import ENVIRONMENT
from tests.support.servers import find_port

FOLDER = ROOT / "recipes" / "speech_service"
KEY = "a-key-of-the-service"
ASKED = {"input": "Which animal barks?", "voice": "en-us"}
MAX_GROWTH = 100_000_000


@pytest.fixture
def service(monkeypatch):
    """The service with espeak-ng in this process, with a key, and a second for a request to arrive."""
    monkeypatch.syspath_prepend(str(FOLDER))
    serve, limits = importlib.import_module("serve"), importlib.import_module("request_limits")
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 1.0)
    port = find_port()
    app = limits.LimitRequests(serve.make_app(serve.Espeak(), "espeak", 16), KEY)
    config = uvicorn.Config(app, port=port, log_level="critical", http=limits.TimedProtocol, limit_concurrency=512)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)
    for name in ("serve", "request_limits"):
        sys.modules.pop(name)


def ask(url: str, key: str = KEY, **changes) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/audio/speech", json={**ASKED, **changes}, headers=headers, timeout=60)


def test_a_hundred_users_are_served_or_sent_away(service):
    """Prevents: an overload that ends in errors without a reason, or in a queue without end."""
    with ThreadPoolExecutor(100) as pool:
        codes = [response.status_code for response in pool.map(lambda _: ask(service), range(100 * SCALE))]
    assert set(codes) <= {200, 429}
    assert codes.count(200) >= 16
    assert ask(service).status_code == 200


@pytest.mark.parametrize("beginning", ["", "POST /v1/audio/speech HT", "POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\n"])
def test_slow_clients_are_cut_off(service, beginning):
    """Prevents: 300 clients that send a byte a second and keep everybody else out."""
    clients = [socket.create_connection(("127.0.0.1", int(service.rpartition(":")[2]))) for _ in range(300)]
    deadline = time.monotonic() + 10
    open_clients = clients
    for client in clients:
        client.sendall(beginning.encode())
        client.settimeout(0.02)
    while open_clients and time.monotonic() < deadline:
        still = []
        for client in open_clients:
            try:
                client.sendall(b"x")
                if client.recv(1000):
                    still.append(client)
            except TimeoutError:
                still.append(client)
            except OSError:
                pass
        open_clients = still if len(still) < 50 else still[:50]
    assert not open_clients
    assert ask(service).status_code == 200
    for client in clients:
        client.close()


@pytest.mark.parametrize("stated", [True, False])
def test_a_large_body_is_refused_unread(service, stated):
    """Prevents: 150 MB of text in memory for each request."""

    def send_pieces():
        for _ in range(150):
            yield b'{"input": "' + b"x" * 1_000_000

    before = psutil.Process().memory_info().rss
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    headers |= {"Content-Length": str(150_001_650)} if stated else {}
    try:
        code = httpx.post(f"{service}/v1/audio/speech", content=send_pieces(), headers=headers, timeout=30).status_code
    except httpx.TransportError:  # cut off while it was sending
        code = 413
    assert code == 413
    assert psutil.Process().memory_info().rss - before < MAX_GROWTH
    assert ask(service).status_code == 200


def test_without_the_key_nothing_is_spoken(service):
    """Prevents: strangers who use a GPU that is bound to 0.0.0.0."""
    for key in ("wrong", "Bearer", "é"):
        response = httpx.post(
            f"{service}/v1/audio/speech", json=ASKED, headers={"Authorization": f"Bearer {key}".encode()}
        )
        assert response.status_code == 401
        assert "set OPENAI_API_KEY" in response.json()["error"]["message"]


def test_an_address_that_others_reach_needs_a_key():
    """Prevents: a service that is open to the network because of one option."""
    command = [sys.executable, str(FOLDER / "serve.py"), "--model", "espeak", "--host", "0.0.0.0"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "set a key for them in SPEECH_API_KEY" in done.stderr
