"""Attacks by servers: replies that are none, one row that always fails, bodies without end."""

import gzip
import itertools
import threading
import time

import numpy as np
import pytest

from data_builders.answers.base import Answer, Question
from data_builders.answers.openai_server import OpenAIServer
from data_builders.chat import TeacherInput
from data_builders.clients import limited_transport
from data_builders.clients.concurrent import LOST_IN_A_ROW, map_concurrent
from data_builders.clients.openai import connect, list_models, map_request_errors
from data_builders.outcomes import Rejected, ServerUnreachable, TemporaryFailure
from data_builders.soft_targets.openai_server import ServerScorer
from data_builders.speech.synthesis import synthesize_clip
from data_builders.speech.tts.server import ServerEngine
from tests.support.bad_clips import make_wav
from tests.support.http_server import JsonHandler, LocalServer
from tests.support.json_server import JsonServer, make_completion
from trainer_ext.evaluation.judge import JudgeSettings, ServerJudge

RUBBISH = [
    b"", b"<html>busy</html>", b"null", b"[]", b"7", b'"text"', b"{}", b"[" * 100_000, b"\xff\xfe", b'{"choices": ',
    *({"choices": choices} for choices in (None, [], [{}], "abc", [None], [{"message": None}], {"a": 1})),
    *({"choices": [{"message": {"content": content}}]} for content in (7, [{"type": "text"}], {"a": 1})),
    *({"choices": [{"message": {"content": "4"}, "finish_reason": reason}]} for reason in (7, ["stop"], {"a": 1})),
    *({"choices": [{"text": "", "prompt_logprobs": entries}]} for entries in (None, 7, {}, [], "abc")),
    *(
        {"choices": [{"text": "", "prompt_logprobs": [None, None, {"5": {"logprob": -0.1, "rank": 1}}, entry]}]}
        for entry in (
            None, 7, {}, {"5": None}, {"5": {"logprob": -0.1}}, {"x": {"logprob": -0.1, "rank": 1}},
            {"-1": {"logprob": -0.1, "rank": 1}}, {"99": {"logprob": -0.1, "rank": 1}},
            *({"5": {"logprob": value, "rank": 1}} for value in (None, float("nan"), float("inf"), 5.0, "x")),
            {"5": {"logprob": -0.1, "rank": None}},
        )
    ),
]  # fmt: skip
MODELS = {"object": "list", "data": [{"id": "m", "owned_by": "vllm"}]}


@pytest.mark.parametrize("rubbish", RUBBISH, ids=range(len(RUBBISH)))
def test_a_reply_that_is_none_fails_its_row_alone(tmp_path, rubbish):
    """Prevents: a traceback in the night, or log-probabilities of nobody, for one page of HTML with status 200."""
    with JsonServer(lambda headers, content: (200, rubbish), MODELS) as server:
        teacher = OpenAIServer(server.url, "m", "main", 8, 2)
        [(_, [answer])] = list(teacher.generate([[Question("Q", "")]]))
        assert isinstance(answer, TemporaryFailure) or (isinstance(answer, Answer) and answer.text == "")
        judge = ServerJudge(JudgeSettings(server.url, "m"), tmp_path / "judge.sqlite")
        [vote] = judge.ask(["how good?"], r"^([1-5])$")
        assert isinstance(vote, Rejected)
        scorer = ServerScorer(server.url, "m", 50, 1)
        [target] = scorer.score([TeacherInput("a", "", [1, 2], [3, 4])])
        assert isinstance(target, (ValueError, TemporaryFailure))
        clip = synthesize_clip(ServerEngine(server.url, "m", 1), "Hi", "alice")
        assert isinstance(clip, Rejected)


@pytest.mark.parametrize("reply", [b"<html>", b"null", b'{"data": 7}', b""])
def test_a_list_of_models_that_is_none_names_the_url(reply):
    """Prevents: "'str' object has no attribute" for a URL without its /v1."""
    with JsonServer(lambda headers, content: (200, {}), reply) as server:
        client = connect(server.url)
        with pytest.raises(ServerUnreachable, match=r"Is the URL complete, as http://localhost:8000/v1\?"):
            list_models(client, server.url)


@pytest.mark.parametrize("samples", [np.full(9_000, np.nan), np.zeros(1), np.full(9_000, 1e9)])
def test_samples_that_are_no_sound_reject_their_row(samples):
    """Prevents: a whole build stopped by one clip of an engine, or an empty clip in the cache for good."""
    reply = make_wav(samples, 48_000, "FLOAT")
    with JsonServer(lambda headers, content: (200, reply), MODELS) as server:
        assert isinstance(synthesize_clip(ServerEngine(server.url, "m", 1), "Hi", "alice"), Rejected)


def test_one_row_that_a_server_drops_costs_that_row():
    """Prevents: a content filter's 403, or a crash on one text, that ends every build at the same row."""
    with JsonServer(
        lambda headers, content: (403, {}) if "bad" in str(content) else (200, make_completion("4"))
    ) as server:
        teacher = OpenAIServer(server.url, "m", "main", 8, 4)
        questions = [Question("bad" if i % 10 == 5 else f"Q{i}", str(i)) for i in range(40)]
        outcomes = {asked[0]: outcome[0] for asked, outcome in teacher.generate([questions])}
    assert [isinstance(outcomes[q], TemporaryFailure) for q in questions] == [q.question == "bad" for q in questions]


def test_a_server_that_died_stops_the_calls():
    """Prevents: 60,000 rows reported one by one after a server has died in the middle."""
    done = itertools.count()

    def call(item):
        if next(done) > 20:
            raise ServerUnreachable("nobody there")
        return item

    found = []
    with pytest.raises(ServerUnreachable):
        found.extend(result for _, result in map_concurrent(call, range(1000), in_flight=2))
    assert next(done) < 21 + LOST_IN_A_ROW + 4


class EndlessHandler(JsonHandler):
    """Sends a body without end: fast, drop by drop, or as a compressed gigabyte."""

    def do_POST(self) -> None:
        self.read_body()
        kind = self.path.split("/")[1]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if kind == "gzip":
            body = gzip.compress(bytes(200_000_000), 1)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1_000_000) if kind == "fast" else b" ")
                time.sleep(0 if kind == "fast" else 0.05)
        except OSError:
            self.close_connection = True


@pytest.mark.parametrize("kind", ["fast", "drops", "gzip"])
def test_a_body_without_end_is_cut_off(monkeypatch, kind):
    """Prevents: a server that fills this machine's memory, or holds a build for ever."""
    monkeypatch.setattr(limited_transport, "MAX_REPLY_BYTES", 5_000_000)
    with LocalServer(EndlessHandler) as server:
        url = f"{server.endpoint}/{kind}/v1"
        client = connect(url, timeout_seconds=1.0).with_options(max_retries=0)
        start, threads = time.monotonic(), threading.active_count()
        with pytest.raises((TemporaryFailure, ServerUnreachable)), map_request_errors(url):
            client.completions.with_raw_response.create(model="m", prompt="x")
        assert time.monotonic() - start < 10
        assert threading.active_count() <= threads + 2
