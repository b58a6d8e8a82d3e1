"""The teacher's own answers: what is asked, what comes back, and what an answer depends on.

Who answers is a model in memory (`teacher_model`) or an OpenAI-compatible server (`teacher_base_url`), greedily. An
answer cut off at the limit is never a target.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from data_builders.clients.concurrent import TemporaryFailure
from data_builders.storage.call_cache import content_key

REFUSED = "refused"  # the finish reason of a question that a server will not answer


class Question(NamedTuple):
    """What a teacher is asked."""

    question: str
    system: str


class Answer(NamedTuple):
    """What it said."""

    text: str
    finish_reason: str  # "stop", "length", or REFUSED: then the text is why


AnsweredBatch = tuple[list[Question], list[Answer] | TemporaryFailure]


class AnswerGenerator(Protocol):
    """Who answers."""

    def answer(self, batches: list[list[Question]]) -> Iterator[AnsweredBatch]:
        """Batches with their answers, or with what failed, in any order."""
        ...


def make_answer_key(teacher: str, max_new_tokens: int, question: Question) -> str:
    """Everything an answer depends on."""
    return content_key("answer", teacher, max_new_tokens, question.system, question.question)


def pack_answer(answer: Answer) -> bytes:
    return json.dumps(answer._asdict()).encode()


def unpack_answer(value: bytes) -> Answer:
    return Answer(**json.loads(value))


def length_batches(questions: list[Question], batch_size: int) -> list[list[Question]]:
    """Batches of like length. They depend on the questions alone, so no answer depends on where a run was killed."""
    ordered = sorted(questions, key=lambda question: (len(question.question), question))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
