"""Teacher and voice behind real HTTP servers that refuse, fail, are overloaded, and die."""

import io
import json
from pathlib import Path

import httpx2 as httpx
import pyarrow.parquet as pq
import pytest
import soundfile

import data_builders.clients.openai
from data_builders.answers.fingerprint import fingerprint_teacher
from data_builders.arguments import BuildArguments
from data_builders.clients.concurrent import ServerUnreachable, TemporaryFailure
from data_builders.pipeline.build import build_dataset
from data_builders.speech.tts.server import ServerEngine
from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.servers import Proxy, serve_speech, serve_teacher

LAB = Path(__file__).parents[3] / "recipes" / "tiny_lab"
TEACHER = str(LAB / "teacher")


@pytest.fixture(scope="module")
def teacher():
    with serve_teacher(TEACHER) as server:
        yield server


@pytest.fixture(scope="module")
def voice():
    with serve_speech() as server:
        yield server


@pytest.fixture(scope="module")
def few_prompts(questions_file, tmp_path_factory):
    """Every third of the prompts, which a small server answers in seconds."""
    file = tmp_path_factory.mktemp("few") / "questions.jsonl"
    file.write_text("".join(f"{line}\n" for line in questions_file.read_text().splitlines()[::3]))
    return file


@pytest.fixture
def fast_retries(monkeypatch):
    """Two tries and no waiting, where a test wants them to fail."""
    monkeypatch.setattr(data_builders.clients.openai, "RETRIES", 1)


def make_arguments(tmp_path, questions_file, **changes):
    settings = {
        "questions": str(questions_file), "cache_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "made"),
        "filter_unspeakable": False, "max_shard_size": "400KB", "answer_max_new_tokens": 24, "recognizer": "none",
        **changes,
    }  # fmt: skip
    return BuildArguments(**settings)


def build(arguments):
    return build_dataset(arguments, fingerprint_teacher(arguments))


def by_question(folder, column):
    return {
        row["question"]: row[column]
        for split in load_dataset_folder(str(folder)).values()
        for row in split
    }


def rejected(folder):
    files = (folder / "rejected").glob("*.parquet")
    return {
        row["question"]: row["reason"] for file in files for row in pq.read_table(file).to_pylist()
    }


def test_a_server_answers_as_the_model_in_memory(teacher, few_prompts, tmp_path):
    """Another template, another stop token, a default temperature: the same teacher, other targets."""
    alone = build(make_arguments(tmp_path / "a", few_prompts, teacher_model_name_or_path=TEACHER))
    served = build(
        make_arguments(
            tmp_path / "b", few_prompts, teacher_model_name_or_path=TEACHER, teacher_base_url=teacher.url
        )
    )  # fmt: skip
    answers = by_question(alone, "teacher_response")
    assert len(answers) > 12
    assert answers == by_question(served, "teacher_response")


def test_a_server_killed_in_the_middle_costs_no_answer_twice(
    teacher, few_prompts, tmp_path, fast_retries
):
    """A spot instance that goes away at night."""
    arguments = make_arguments(
        tmp_path, few_prompts, teacher_model_name_or_path=TEACHER, answer_batch_size=1
    )
    dies_at = 7
    with serve_teacher(TEACHER) as mortal:

        def kill(number, _):
            if number == dies_at:
                mortal.kill()

        with Proxy(mortal.url, kill) as proxy:
            arguments.teacher_base_url = proxy.url
            with pytest.raises(ServerUnreachable, match="start it, and run this again"):
                build(arguments)
    with Proxy(teacher.url, lambda *_: None) as proxy:
        arguments.teacher_base_url = proxy.url
        folder = build(arguments)
        rows = sum(len(split) for split in load_dataset_folder(str(folder)).values())
        assert proxy.requests == rows - (dies_at - 1)


def test_failures_are_retried_with_back_off_and_then_reported_by_row(
    teacher, few_prompts, tmp_path, monkeypatch
):
    """One 500 in a night of 67 thousand calls is no reason to stop, nor to lose the row."""
    monkeypatch.setattr(data_builders.clients.openai, "RETRIES", 2)
    bad = json.loads(few_prompts.read_text().splitlines()[3])["question"]

    seen = set()

    def decide(_, body):
        if bad.encode() in body:
            return 500
        first = body not in seen
        seen.add(body)
        return 429 if first else None

    with Proxy(teacher.url, decide) as proxy:
        arguments = make_arguments(
            tmp_path, few_prompts, teacher_model_name_or_path=TEACHER, teacher_base_url=proxy.url, answer_batch_size=4
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"1 rows failed.*run this again") as told:
            build(arguments)
        assert bad in str(told.value)
        assert "failed 3 times, at last with HTTP 500: Error code: 500 - told to fail" in str(
            told.value
        )
        before = proxy.requests
        arguments.skip_failed = True
        folder = build(arguments)
        assert proxy.requests == before + 3  # the bad one alone
    assert rejected(folder) == {bad: "failed"}


def test_a_refused_question_stands_aside(teacher, few_prompts, tmp_path):
    """400: too long for the model, say. Asking again is of no use, and the build goes on."""
    bad = json.loads(few_prompts.read_text().splitlines()[5])["question"]
    with Proxy(teacher.url, lambda _, body: 400 if bad.encode() in body else None) as proxy:
        arguments = make_arguments(
            tmp_path, few_prompts, teacher_model_name_or_path=TEACHER, teacher_base_url=proxy.url
        )
        folder = build(arguments)
    assert list(rejected(folder)) == [bad]
    assert "refused it with HTTP 400: Error code: 400 - told to fail" in rejected(folder)[bad]


def test_the_service_speaks_as_its_engine(voice, few_prompts, tmp_path):
    """Speech over HTTP, four requests in flight: the same clips as without."""
    spoken = {"train_voices": ["en-us"], "test_voices": ["en-gb-x-rp"]}
    near = build(make_arguments(tmp_path / "a", few_prompts, **spoken))
    far = build(
        make_arguments(
            tmp_path / "b", few_prompts, speech_engine="server", speech_base_url=voice.url, speech_model="espeak",
            speech_concurrency=4, **spoken,
        )
    )  # fmt: skip
    near_clips, far_clips = (by_question(folder, "speech") for folder in (near, far))
    assert {q: clip["bytes"] for q, clip in near_clips.items()} == {
        q: clip["bytes"] for q, clip in far_clips.items()
    }
    assert set(by_question(far, "speech_engine").values()) == {"server:espeak"}


def test_what_cannot_be_spoken_stands_aside_and_the_build_goes_on(voice, tmp_path):
    """One bad voice of a pool, one monstrous text: named by row, not found out at row 40,000."""
    questions = [f"What is {i} and {i}?" for i in range(12)] + ["word " * 2000]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    folder = build(
        make_arguments(
            tmp_path, file, speech_engine="server", speech_base_url=voice.url, speech_model="espeak",
            train_voices=["en-us", "en-us/1.2", "martian"],
        )
    )  # fmt: skip
    reasons = rejected(folder)
    assert "10" not in reasons
    assert "characters, and 4096 is the most" in reasons[questions[-1].strip()]
    unknown = [reason for reason in reasons.values() if "no voice 'martian'" in reason]
    assert unknown
    assert len(unknown) == len(reasons) - 1
    assert len(load_dataset_folder(str(folder))["train"]) == len(questions) - len(reasons)


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
def test_the_service_says_what_is_wrong_with_a_request(voice, changes, message):
    """A stack trace in a server's log helps nobody at the other end."""
    asked = {"input": "Which animal barks?", "voice": "en-us", **changes}
    told = httpx.post(f"{voice.url}/audio/speech", json=asked)
    assert told.status_code == 400
    assert message in told.json()["error"]["message"]


def test_the_service_answers_in_the_rate_and_format_asked_for(voice):
    """A client that believes the header and not its own wish."""
    asked = {
        "input": "Hello there.",
        "voice": "en-us",
        "sample_rate": 16_000,
        "response_format": "flac",
    }
    told = httpx.post(f"{voice.url}/audio/speech", json=asked)
    clip = soundfile.info(io.BytesIO(told.content))
    assert (clip.samplerate, clip.format) == (16_000, "FLAC")


def test_an_overloaded_service_sends_clients_away_until_it_can(few_prompts, tmp_path):
    """A queue without end in front of one GPU: the last of a thousand times out, and so do all that come again."""
    with serve_speech("--max_waiting", "1") as busy:
        folder = build(
            make_arguments(
                tmp_path, few_prompts, speech_engine="server", speech_base_url=busy.url, speech_model="espeak",
                speech_concurrency=4,
            )
        )  # fmt: skip
        assert not (folder / "rejected").exists()


def test_a_prompt_clip_that_cannot_be_cloned_is_named(tmp_path, monkeypatch):
    """CosyVoice wants 16 kHz and at most 30 seconds, and fails deep inside otherwise."""
    import sys

    monkeypatch.syspath_prepend(str(LAB.parent / "speech_service"))
    from serve import rejection_reason

    for rate_hz, seconds, fault in ((8_000, 3, "8000 Hz"), (16_000, 31, "31.0 s"), (16_000, 3, "")):
        soundfile.write(tmp_path / "clip.wav", [0.0] * rate_hz * seconds, rate_hz)
        assert fault in rejection_reason({"clip": str(tmp_path / "clip.wav"), "text": "Hello."})
        assert bool(rejection_reason({"clip": str(tmp_path / "clip.wav"), "text": ""})) == bool(
            fault
        )
    assert "no file" in rejection_reason({"clip": str(tmp_path / "none.wav"), "text": ""})
    sys.modules.pop("serve")


def test_a_server_that_is_not_there_is_told_from_one_that_fails(voice, fast_retries):
    """Nobody home stops the stage; an error of one row does not."""
    with pytest.raises(ServerUnreachable, match="cannot be reached"):
        ServerEngine("http://127.0.0.1:9/v1", "", 1).synthesize("Hello.", "en-us")
    with (
        Proxy(voice.url, lambda *_: 503) as failing,
        pytest.raises(TemporaryFailure, match="HTTP 503"),
    ):
        ServerEngine(failing.url, "", 1).synthesize("Hello.", "en-us")
    with pytest.raises(ValueError, match=r"write name\[/speed\]"):
        ServerEngine(voice.url, "", 1).synthesize("Hello.", "en-us/fast")
