"""Tests against real HTTP servers that refuse, fail, are overloaded, and are killed."""

import io
import json
import sys

import httpx2 as httpx
import pytest
import soundfile

import data_builders.clients.openai
from data_builders.outcomes import ServerUnreachable, TemporaryFailure
from data_builders.pipeline.build import build_dataset
from data_builders.speech.tts.server import ServerEngine
from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.lab import LAB, TEACHER, write_questions
from tests.support.servers import Proxy, serve_speech, serve_teacher
from tests.support.settings import make_settings, read_parquet


@pytest.fixture(scope="module")
def few_questions(questions_file, tmp_path_factory):
    """Return every third question, for a small server."""
    rows = [json.loads(line) for line in questions_file.read_text().splitlines()[::3]]
    return write_questions(tmp_path_factory.mktemp("few") / "questions.jsonl", rows)


@pytest.fixture
def fast_retries(monkeypatch):
    """Limit retries to two with short waits, for tests of failures."""
    monkeypatch.setattr(data_builders.clients.openai, "RETRIES", 1)


def build(tmp_path, questions_file, **changes):
    settings = {
        "questions": str(questions_file),
        "cache_dir": str(tmp_path / "data"),
        "output_dir": str(tmp_path / "made"),
        "filter_unspeakable": False,
        "max_shard_size": "400KB",
        "answer_max_new_tokens": 24,
        "recognizer": "none",
        **changes,
    }
    return build_dataset(make_settings(**settings))


def served_by(url, **changes):
    """Return arguments for answers by a server."""
    server = {"answer_engine": "server", "teacher_base_url": url}
    return {"teacher_model_name_or_path": TEACHER, **server, **changes}


def spoken_by(url, **changes):
    """Return arguments for speech by a server."""
    return {"speech_engine": "server", "speech_base_url": url, "speech_model": "espeak", **changes}


def by_question(folder, column):
    return {row["question"]: row[column] for split in load_dataset_folder(str(folder)).values() for row in split}


def rejected(folder):
    return {row["question"]: row for row in read_parquet(folder / "rejected")}


def question_of(file, number):
    return json.loads(file.read_text().splitlines()[number])["question"]


def test_a_server_answers_as_the_model_in_memory(teacher_server, few_questions, tmp_path):
    """Prevents: another template, stop token or temperature, so the same teacher with other targets."""
    alone = build(tmp_path / "a", few_questions, teacher_model_name_or_path=TEACHER)
    served = build(tmp_path / "b", few_questions, **served_by(teacher_server.url))
    answers = by_question(alone, "teacher_response")
    assert len(answers) > 12
    assert answers == by_question(served, "teacher_response")


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_no_answer_twice(teacher_server, few_questions, tmp_path, fast_retries):
    """Prevents: answers that are generated again after a spot instance went away."""
    dies_at = 7
    with serve_teacher(TEACHER) as mortal:

        def kill(number, _):
            if number == dies_at:
                mortal.kill()

        with (
            Proxy(mortal.url, kill) as proxy,
            pytest.raises(ServerUnreachable, match="start the server and run this again"),
        ):
            build(tmp_path, few_questions, **served_by(proxy.url, answer_batch_size=1))
    with Proxy(teacher_server.url, lambda *_: None) as proxy:
        folder = build(tmp_path, few_questions, **served_by(proxy.url, answer_batch_size=1))
        rows = sum(len(split) for split in load_dataset_folder(str(folder)).values())
        assert proxy.requests == rows - (dies_at - 1)


def test_failures_are_retried_and_then_reported_by_row(teacher_server, few_questions, tmp_path, monkeypatch):
    """Prevents: one 500 in a night of 67,000 calls that stops the night, or that loses its row."""
    monkeypatch.setattr(data_builders.clients.openai, "RETRIES", 2)
    bad = question_of(few_questions, 3)
    seen = set()

    def decide(_, body):
        if bad.encode() in body:
            return 500
        first = body not in seen
        seen.add(body)
        return 429 if first else None

    with Proxy(teacher_server.url, decide) as proxy:
        arguments = served_by(proxy.url, answer_batch_size=4)
        with pytest.raises(ValueError, match=r"1 calls failed.*run this again") as caught:
            build(tmp_path, few_questions, **arguments)
        assert bad in str(caught.value)
        assert "failed 3 times, at last with HTTP 500: Error code: 500 - told to fail" in str(caught.value)
        before = proxy.requests
        folder = build(tmp_path, few_questions, **arguments, skip_failed=True)
        assert proxy.requests == before + 3  # the bad one alone
    assert {q: row["rejected_code"] for q, row in rejected(folder).items()} == {bad: "failed"}


def test_a_refused_question_is_rejected_and_the_build_goes_on(teacher_server, few_questions, tmp_path):
    """Prevents: a build that stops at a 400, for a question too long for the model, say."""
    bad = question_of(few_questions, 5)
    with Proxy(teacher_server.url, lambda _, body: 400 if bad.encode() in body else None) as proxy:
        folder = build(tmp_path, few_questions, **served_by(proxy.url))
    (row,) = rejected(folder).values()
    assert (row["question"], row["rejected_stage"], row["rejected_code"]) == (bad, "answers", "not_answered")
    assert "refused the request with HTTP 400: Error code: 400 - told to fail" in row["rejected_detail"]


def test_the_service_speaks_as_its_engine(speech_server, few_questions, tmp_path):
    """Prevents: other clips over HTTP, with four requests in flight, than without."""
    voices = {"train_voices": ["en-us"], "test_voices": ["en-gb-x-rp"]}
    near = build(tmp_path / "a", few_questions, **voices)
    far = build(tmp_path / "b", few_questions, **spoken_by(speech_server.url, speech_concurrency=4), **voices)
    near_clips, far_clips = (
        {question: clip["bytes"] for question, clip in by_question(folder, "speech").items()} for folder in (near, far)
    )
    assert near_clips == far_clips
    assert set(by_question(far, "speech_engine").values()) == {"server:espeak"}


def test_what_a_service_refuses_is_rejected_and_the_build_goes_on(speech_server, tmp_path):
    """Prevents: one bad voice of a pool, or one monstrous text, that stops the build at row 40,000."""
    questions = [f"What is {i} and {i}?" for i in range(12)] + [("word " * 2000).strip()]
    file = write_questions(tmp_path / "questions.jsonl", questions)
    folder = build(tmp_path, file, **spoken_by(speech_server.url, train_voices=["en-us", "en-us/1.2", "martian"]))
    details = {question: row["rejected_detail"] for question, row in rejected(folder).items()}
    assert "characters, and 4096 is the most" in details[questions[-1]]
    unknown = [detail for detail in details.values() if "no voice 'martian'" in detail]
    assert unknown
    assert len(unknown) == len(details) - 1
    assert len(load_dataset_folder(str(folder))["train"]) == len(questions) - len(details)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": ""}, "the input is empty"),
        ({"input": "x" * 10_000}, "10000 characters, and 4096 is the most"),
        ({"voice": "martian"}, "no voice 'martian'"),
        ({"sample_rate": 11}, "sample_rate is 11; it is from 8000 to 48000 Hz"),
        ({"sample_rate": "high"}, "sample_rate"),
        ({"speed": 9}, "speed is 9.0; it is from 0.5 to 2.0"),
        ({"response_format": "mp3"}, "it is wav or flac"),
    ],
)
def test_the_service_says_what_is_wrong_with_a_request(speech_server, changes, message):
    """Prevents: a stack trace in the server's log, which the client never sees."""
    request = {"input": "Which animal barks?", "voice": "en-us", **changes}
    response = httpx.post(f"{speech_server.url}/audio/speech", json=request)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_the_service_answers_in_the_rate_and_format_asked_for(speech_server):
    """Prevents: a file of another format than its header says."""
    request = {"input": "Hello there.", "voice": "en-us", "sample_rate": 16_000, "response_format": "flac"}
    response = httpx.post(f"{speech_server.url}/audio/speech", json=request)
    clip = soundfile.info(io.BytesIO(response.content))
    assert (clip.samplerate, clip.format) == (16_000, "FLAC")


@pytest.mark.slow
def test_an_overloaded_service_sends_clients_away_until_it_can(few_questions, tmp_path):
    """Prevents: an endless queue before one GPU, in which every request times out and comes again."""
    with serve_speech("--max_waiting", "1") as busy:
        folder = build(tmp_path, few_questions, **spoken_by(busy.url, speech_concurrency=4))
        assert not (folder / "rejected").exists()


def test_a_prompt_clip_that_cannot_be_cloned_is_named(tmp_path, monkeypatch):
    """Prevents: an error deep inside CosyVoice, which needs 16 kHz and at most 30 seconds."""
    monkeypatch.syspath_prepend(str(LAB.parent / "speech_service"))
    from serve import find_clip_fault

    for rate_hz, seconds, fault in ((8_000, 3, "8000 Hz"), (16_000, 31, "31.0 s"), (16_000, 3, "")):
        soundfile.write(tmp_path / "clip.wav", [0.0] * rate_hz * seconds, rate_hz)
        found = find_clip_fault({"clip": str(tmp_path / "clip.wav"), "text": "Hello."})
        assert fault in found
        assert bool(found) == bool(fault)
    assert "no file" in find_clip_fault({"clip": str(tmp_path / "none.wav"), "text": ""})
    sys.modules.pop("serve")


def test_a_server_that_is_not_there_is_told_from_one_that_fails(speech_server, fast_retries):
    """Prevents: a stage that goes on without its server, or stops for one row."""
    with pytest.raises(ServerUnreachable, match="cannot be reached"):
        ServerEngine("http://127.0.0.1:9/v1", "", 1).synthesize("Hello.", "en-us")
    with Proxy(speech_server.url, lambda *_: 503) as failing, pytest.raises(TemporaryFailure, match="HTTP 503"):
        ServerEngine(failing.url, "", 1).synthesize("Hello.", "en-us")
    with pytest.raises(ValueError, match=r"write name\[/speed\]"):
        ServerEngine(speech_server.url, "", 1).synthesize("Hello.", "en-us/fast")
