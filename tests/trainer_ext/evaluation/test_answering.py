"""Tests of the answers' stage: files, resuming, several models, a server."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from data_builders.audio import decode_speech
from data_builders.causal_lm import TeacherSettings
from data_builders.outcomes import TemporaryFailure
from tests.support.audio_chat_server import AudioChatServer
from tests.support.json_server import JsonServer, make_completion
from tests.support.lab import STUDENT, TEACHER
from trainer_ext.evaluation.answer_file import read_answers
from trainer_ext.evaluation.answering import Generation, answer_benchmark
from trainer_ext.evaluation.benchmarks.own_data import make_pairs_benchmark
from trainer_ext.evaluation.conditions import apply_condition, parse_condition
from trainer_ext.evaluation.evaluators.base import load_evaluator
from trainer_ext.evaluation.items import REFUSED, Answer
from trainer_ext.evaluation.sources.base import Asked
from trainer_ext.evaluation.sources.openai_server import ServerSource
from trainer_ext.evaluation.sources.student import LoadSettings, SharedStudent
from trainer_ext.evaluation.sources.text_llm import TextLLMSource
from trainer_ext.students.registry import load_student_family

GENERATION = Generation()


class CountingSource:
    """Answers with the question in capitals, and counts what it is asked; `fails` and `stops` at some questions."""

    label, modalities, weights, refuses_for_good = "counting", ("text", "speech"), None, True

    def __init__(self, fails=(), stops_after=None) -> None:
        self.asked, self.fails, self.stops_after = [], fails, stops_after

    def describe(self):
        return {"model": "counting"}

    def cut(self, asked, modality):
        return [list(range(start, min(start + 4, len(asked)))) for start in range(0, len(asked), 4)]

    def answer(self, asked, modality, max_new_tokens):
        if self.stops_after is not None and len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        self.asked += [entry.item.id for entry in asked]
        right = {entry.item.id: Answer(entry.item.question.upper(), "stop", 3) for entry in asked}
        return [TemporaryFailure("HTTP 500") if key in self.fails else answer for key, answer in right.items()]

    def free(self):
        pass


@pytest.fixture
def lab(pairs):
    return make_pairs_benchmark(pairs["test"], "lab", "exact_answer", 24)


def test_a_second_run_asks_nothing(lab, tmp_path):
    """Prevents: a night of answers that is repeated for another score."""
    first, second = CountingSource(), CountingSource()
    answers = answer_benchmark(first, lab, "speech", tmp_path, GENERATION)
    assert answer_benchmark(second, lab, "speech", tmp_path, GENERATION) == answers
    assert len(first.asked) == len(lab.items)
    assert second.asked == []
    assert [entry.item.id for entry in answers] == [item.id for item in lab.items]


def test_a_line_says_everything_about_an_answer(lab, tmp_path):
    """Prevents: answers that nobody can tell apart a week later."""
    answer_benchmark(CountingSource(), lab, "text", tmp_path, Generation(seed=7))
    (file,) = tmp_path.rglob("*.jsonl")
    line = json.loads(file.read_text().splitlines()[0])
    assert line["generation"] == {"do_sample": False, "max_new_tokens": 24}
    assert {"item", "modality", "answer", "benchmark", "condition", "model", "label", "seed"} <= line.keys()
    assert {"text", "finish_reason", "tokens", "seconds"} <= line["answer"].keys()


def test_a_killed_run_goes_on_with_the_same_batches(lab, tmp_path):
    """Prevents: answers that are lost, asked twice, or of other batches than an uninterrupted run's."""
    straight = answer_benchmark(CountingSource(), lab, "speech", tmp_path / "a", GENERATION)
    with pytest.raises(KeyboardInterrupt):
        answer_benchmark(CountingSource(stops_after=8), lab, "speech", tmp_path / "b", GENERATION)
    (file,) = (tmp_path / "b").rglob("*.jsonl")
    content = file.read_bytes()
    file.write_bytes(content[:-30])  # killed in the middle of a line
    rest = CountingSource()
    assert answer_benchmark(rest, lab, "speech", tmp_path / "b", GENERATION) == straight
    assert len(rest.asked) == len(lab.items) - 4  # the batch of the torn line again, as a whole
    assert len(list(read_answers(file))) == len(lab.items)


def test_an_answer_to_another_question_does_not_count(lab, tmp_path):
    """Prevents: yesterday's answers for today's data under the same ids."""
    answer_benchmark(CountingSource(), lab, "text", tmp_path, GENERATION)
    changed = dataclasses.replace(lab, items=[dataclasses.replace(item, system="Be brief.") for item in lab.items])
    again = CountingSource()
    answer_benchmark(again, changed, "text", tmp_path, GENERATION)
    assert len(again.asked) == len({item.question_id for item in lab.items})


def test_failures_are_named_and_asked_again_alone(lab, tmp_path):
    """Prevents: a score without the questions that a server could not answer just then."""
    bad = lab.items[5].id
    with pytest.raises(TemporaryFailure, match=rf"1 of {len(lab.items)} questions .* The first, {bad}: HTTP 500"):
        answer_benchmark(CountingSource(fails=(bad,)), lab, "speech", tmp_path, GENERATION)
    again = CountingSource()
    answer_benchmark(again, lab, "speech", tmp_path, GENERATION)
    assert len(again.asked) == 4  # its batch


def test_a_stage_that_may_not_ask_says_what_is_missing(lab, tmp_path):
    """Prevents: a rerun of the scores that loads a model of 15 GB."""
    with pytest.raises(ValueError, match=r"30 of 30 answers are missing; run the stage `answers` first"):
        answer_benchmark(CountingSource(), lab, "speech", tmp_path, Generation(ask=False))


def test_a_broken_line_is_named(lab, tmp_path):
    """Prevents: a traceback for a file that somebody has edited."""
    answer_benchmark(CountingSource(), lab, "text", tmp_path, GENERATION)
    (file,) = tmp_path.rglob("*.jsonl")
    file.write_text("not JSON\n" + file.read_text())
    with pytest.raises(ValueError, match="line 1: not an answer"):
        answer_benchmark(CountingSource(), lab, "text", tmp_path, GENERATION)


def test_a_clip_that_cannot_be_asked_is_a_refused_answer(lab, pairs, tmp_path):
    """Prevents: one clip of 301 s that ends a night of answers, or a question that disappears from the score."""
    rows = [pairs["test"][i] for i in range(3)]
    source = SharedStudent(LoadSettings(STUDENT, dtype="float32")).make_source("base")
    small = dataclasses.replace(
        lab, items=lab.items[:3], clips=pairs["test"].select(range(3)).rename_column("speech", "clip")
    )
    broken = dataclasses.replace(
        small, change_clip=lambda clip, i: {"bytes": b"?", "path": None} if i.id == rows[1]["id"] else clip
    )
    answers = answer_benchmark(source, broken, "speech", tmp_path, GENERATION)
    assert [entry.answer.finish_reason == REFUSED for entry in answers] == [False, True, False]
    assert "cannot be read" in answers[1].answer.detail
    whole = answer_benchmark(source, small, "speech", tmp_path / "whole", GENERATION)
    assert [entry.answer.text for entry in answers][::2] == [entry.answer.text for entry in whole][::2]


def test_the_teacher_answers_as_it_did_for_the_data(lab, tmp_path):
    """Prevents: a ceiling of another prompt or another decoding."""
    source = TextLLMSource("teacher", TeacherSettings(TEACHER, dtype="float32"))
    answers = answer_benchmark(source, lab, "text", tmp_path, GENERATION)
    assert [entry.answer.text for entry in answers] == [entry.item.details["teacher_response"] for entry in answers]


def test_a_server_is_asked_as_the_model_in_process(lab, teacher_server, tmp_path):
    """Prevents: another system prompt or decoding behind HTTP."""
    source = ServerSource("server", teacher_server.url, TEACHER, in_flight=4)
    answers = answer_benchmark(source, lab, "text", tmp_path, GENERATION)
    assert [entry.answer.text for entry in answers] == [entry.item.details["teacher_response"] for entry in answers]
    source.free()


def test_harder_recordings_are_the_same_for_every_model(lab):
    """Prevents: a robustness curve of luck."""
    noisy, again = apply_condition(lab, "noise=5"), apply_condition(lab, "noise=5")
    assert noisy.condition == "noise 5 dB"
    assert noisy.read_clip(0) == again.read_clip(0)
    assert noisy.read_clip(0) != lab.read_clip(0)
    assert noisy.read_clip(0) != apply_condition(lab, "noise=20").read_clip(0)
    faster = apply_condition(lab, "speed=1.25")
    plain, fast = (decode_speech(b.read_clip(0), "x") for b in (lab, faster))
    assert len(fast) == pytest.approx(len(plain) / 1.25, rel=0.01)
    for text in ("noise", "noise=loud", "speed=9", "rain", "room=1"):
        with pytest.raises(ValueError, match="a condition is noise=DECIBELS"):
            parse_condition(text)


@pytest.mark.parametrize("modality", ["text", "speech", "audio"])
def test_a_server_that_hears_scores_as_the_model_in_process(lab, pristine_student, family, modality, tmp_path):
    """Prevents: other scores by another way of asking: clip, question and system prompt arrive as they are."""
    if modality == "audio":
        lab = dataclasses.replace(lab, benchmark=dataclasses.replace(lab.benchmark, modalities=("audio",)))
    inside = SharedStudent(LoadSettings(STUDENT, dtype="float32")).make_source("base")
    expected = answer_benchmark(inside, lab, modality, tmp_path, GENERATION)
    with AudioChatServer(pristine_student, family) as server:
        source = ServerSource("server", server.url, "student", in_flight=4)
        answers = answer_benchmark(source, lab, modality, tmp_path, GENERATION)
        source.free()
    assert [entry.answer.text for entry in answers] == [entry.answer.text for entry in expected]
    assert [entry.answer.finish_reason for entry in answers] == [entry.answer.finish_reason for entry in expected]
    scores = [load_evaluator("exact_answer").evaluate(entries) for entries in (answers, expected)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("modality", ["text", "speech", "audio"])
def test_a_served_voxtral_reads_the_prompt_that_it_was_trained_on(tiny_voxtral, lab, modality, system, tmp_path):
    """Prevents: a refusal of every spoken question, since Mistral's servers take no system prompt beside a clip."""
    tokenizer = MistralTokenizer.from_file(tiny_voxtral / "tekken.json")
    family = load_student_family(str(tiny_voxtral))
    read = []

    def reply(_, content):
        request = ChatCompletionRequest.from_openai(content["messages"])
        read.append(tokenizer.encode_chat_completion(request).tokens)
        return 200, make_completion("yes")

    item = dataclasses.replace(lab.items[0], system=system)
    with JsonServer(reply, {"data": []}) as server:
        source = ServerSource("server", server.url, str(tiny_voxtral))
        (answer,) = source.answer([Asked(item, lambda: lab.read_clip(0))], modality, 8)
        source.free()
    assert answer.text == "yes"
    samples = len(decode_speech(lab.read_clip(0), "x"))
    expected = {
        "text": lambda: family.encode_text_prompt(item.question, system),
        "speech": lambda: family.encode_speech_prompt(samples, system),
        "audio": lambda: family.encode_audio_prompt(samples, item.question, system),
    }
    assert read == [expected[modality]()]


def test_an_answer_to_another_clip_does_not_count(lab, tmp_path):
    """Prevents: answers to yesterday's recordings for today's, which have the same ids and questions."""
    answer_benchmark(CountingSource(), lab, "speech", tmp_path, GENERATION)
    again = CountingSource()
    answer_benchmark(
        again,
        dataclasses.replace(lab, clips=lab.clips.select(range(len(lab.clips))[::-1])),
        "speech",
        tmp_path,
        GENERATION,
    )
    assert len(again.asked) == len(lab.items)


def test_a_server_s_refusal_is_asked_again(lab, tmp_path):
    """Prevents: a server that was started without audio, whose refusals stay when it is started with it."""

    class Refusing(CountingSource):
        refuses_for_good = False

        def answer(self, asked, modality, max_new_tokens):
            super().answer(asked, modality, max_new_tokens)
            return [Answer("", REFUSED, detail="HTTP 400") for _ in asked]

    answer_benchmark(Refusing(), lab, "speech", tmp_path, GENERATION)
    mended = Refusing()
    answer_benchmark(mended, lab, "speech", tmp_path, GENERATION)
    assert len(mended.asked) == len(lab.items)


def test_a_recording_without_a_written_question_is_not_asked_in_writing(lab, tmp_path):
    """Prevents: an answer to nothing that lowers the text score."""
    items = [dataclasses.replace(item, question="") if i == 0 else item for i, item in enumerate(lab.items)]
    source = CountingSource()
    answer_benchmark(source, dataclasses.replace(lab, items=items), "text", tmp_path, GENERATION)
    assert lab.items[0].id not in source.asked
    with pytest.raises(ValueError, match="needs questions in writing"):
        apply_condition(dataclasses.replace(lab, items=items), "voice=en-us")


def test_noise_is_the_same_from_many_threads(lab):
    """Prevents: a server that hears other noise than the model in process: effects draw from global generators."""
    noisy = apply_condition(lab, "noise=5")
    positions = list(range(12)) * 2
    alone = [noisy.read_clip(position) for position in positions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(noisy.read_clip, positions)) == alone
