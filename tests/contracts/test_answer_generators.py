"""The contract of every answer generator: registered, fake and broken."""

import pytest

from data_builders.answers.base import (
    ANSWER_GENERATORS,
    Answer,
    Question,
    find_answer_generator,
    length_batches,
)
from data_builders.arguments import AnswerArguments
from tests.support.lab import TEACHER

QUESTIONS = [
    Question("What is two plus three?", ""),
    Question("What is the capital of France?", ""),
    Question("Which day comes after Monday?", "You are a helpful assistant."),
]


@pytest.fixture
def start(request, monkeypatch):
    """Start a generator by name."""

    def start_generator(name):
        for fake in ("ParrotGenerator", "HastyGenerator"):
            monkeypatch.setitem(ANSWER_GENERATORS, fake, f"tests.support.fakes:{fake}")
        url = request.getfixturevalue("teacher_server").url if name == "server" else None
        arguments = AnswerArguments(
            teacher_model_name_or_path=TEACHER,
            answer_engine=name,
            teacher_base_url=url,
            answer_max_new_tokens=24,
        )
        return find_answer_generator(arguments).from_arguments(arguments)

    return start_generator


def ask(generator):
    """Return the answers by question; a question must be answered once."""
    answers = {}
    for questions, outcomes in generator.generate(length_batches(QUESTIONS, 2)):
        assert len(questions) == len(outcomes)
        for question, outcome in zip(questions, outcomes, strict=True):
            assert question not in answers
            answers[question] = outcome
    return answers


def check_generator(generator):
    """Assert the contract of `AnswerGenerator`."""
    assert generator.batched in (True, False)
    answers = ask(generator)
    assert answers.keys() == set(QUESTIONS)
    assert all(isinstance(answer, Answer) and answer.finish_reason == "stop" for answer in answers.values())
    assert ask(generator) == answers
    generator.close()


@pytest.mark.parametrize("name", [*ANSWER_GENERATORS, "ParrotGenerator"])
def test_a_generator_keeps_the_contract(start, name):
    """Prevents: questions without an answer, answers to other questions, or others after a resume."""
    check_generator(start(name))


def test_the_contract_finds_a_broken_generator(start):
    """Prevents: a contract that accepts everything."""
    with pytest.raises(AssertionError):
        check_generator(start("HastyGenerator"))
