"""Servers for tests: real processes behind real HTTP, and a proxy that fails as real ones do."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from tests.support.http_server import JsonHandler, LocalServer
from tests.support.lab import ROOT

START_SECONDS = 120


def find_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class ServerProcess:
    """A program that serves HTTP on a port, while the `with` block lasts.

    Attributes:
        endpoint: http://127.0.0.1:PORT.
        url: of its OpenAI-compatible interface.
    """

    def __init__(self, command: list[str], port: int, ready: str, cwd: Path = ROOT, **environment: str) -> None:
        self.command, self.port, self.ready = command, port, ready
        self.cwd, self.environment = cwd, {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
        self.endpoint = f"http://127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{port}/v1"

    def __enter__(self) -> "ServerProcess":
        self.process = subprocess.Popen(
            self.command, cwd=self.cwd, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self.process.poll() is None, f"{self.command} ended"
            assert time.monotonic() < deadline, f"{self.command} does not answer"
            time.sleep(0.2)
        return self

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", self.ready)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """kill -9, with all it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __exit__(self, *_: Any) -> None:
        self.kill()


def serve_teacher(model: str) -> ServerProcess:
    """`transformers serve`, which speaks OpenAI's interface."""
    port = find_port()
    program = [str(Path(sys.executable).with_name("transformers")), "serve", model]
    return ServerProcess([*program, "--port", str(port), "--device", "cpu"], port, "/health")


def serve_speech(*arguments: str) -> ServerProcess:
    """The speech service with espeak-ng behind it."""
    port = find_port()
    script = str(ROOT / "recipes" / "speech_service" / "serve.py")
    command = [sys.executable, script, "--model", "espeak", "--port", str(port), *arguments]
    return ServerProcess(command, port, "/v1/models")


class Proxy(LocalServer):
    """Passes requests on to a server, but for those that `decide` answers with a status of its own.

    Attributes:
        requests: how many came.
    """

    def __init__(self, target: str, decide: Any) -> None:
        self.requests = 0
        host, proxy = urlparse(target).netloc, self

        class Handler(JsonHandler):
            def do_POST(self) -> None:
                body = self.read_body()
                proxy.requests += 1
                status = decide(proxy.requests, body)
                if status is not None:
                    self.reply(status, b'{"error": {"message": "told to fail"}}', Retry_After="0")
                    return
                connection = http.client.HTTPConnection(host, timeout=60)
                try:
                    connection.request("POST", self.path, body, {"Content-Type": "application/json"})
                    told = connection.getresponse()
                    self.reply(told.status, told.read(), Retry_After="0")
                except OSError:
                    self.close_connection = True
                finally:
                    connection.close()

        super().__init__(Handler)


def serve_page(app: Path, *arguments: str, cwd: Path = ROOT, **environment: str) -> ServerProcess:
    """The page of recipes/space; Chromium and gradio's client talk to it."""
    port = find_port()
    command = [sys.executable, str(app), *arguments, "--server_port", str(port)]
    return ServerProcess(command, port, "/", cwd, **{"PYTHONPATH": str(ROOT), **environment})
