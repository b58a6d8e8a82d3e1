"""The teacher's own answers: generators, and what an answer depends on.

Decoding is greedy. An answer that was cut off at the limit is never a target. A new generator is one file in this
folder and one line in `ANSWER_GENERATORS`.
"""

import json
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Protocol

from data_builders.arguments import AnswerArguments
from data_builders.outcomes import Rejected, TemporaryFailure
from data_builders.registry import load_class
from data_builders.storage.call_cache import content_key

ANSWER_GENERATORS = {
    "local": "data_builders.answers.local_model:LocalModel",
    "server": "data_builders.answers.openai_server:OpenAIServer",
}
STAGE = "answers"


class Question(NamedTuple):
    """The prompt of a teacher."""

    question: str
    system: str


class Answer(NamedTuple):
    """The teacher's response."""

    text: str
    finish_reason: str  # "stop" or "length"


AnswerOutcome = Answer | Rejected | TemporaryFailure


class AnswerGenerator(Protocol):
    """A source of greedy answers."""

    # Whether answers of one batch are computed together. Batches are then never split, so that an answer does not
    # depend on where an earlier run stopped.
    batched: ClassVar[bool]

    @classmethod
    def from_arguments(cls, arguments: AnswerArguments) -> "AnswerGenerator":
        """Load the model or connect to the server."""
        ...

    def generate(self, batches: list[list[Question]]) -> Iterator[tuple[list[Question], list[AnswerOutcome]]]:
        """Yield the outcomes of questions, in any order and grouping; equal questions give equal answers.

        Raises:
            ServerUnreachable: nothing can be answered now.
        """
        ...

    def close(self) -> None:
        """Free the model or the connection."""
        ...


def find_answer_generator(arguments: AnswerArguments) -> type[AnswerGenerator]:
    """Return the class of the chosen generator.

    Raises:
        ValueError: `answer_engine` is not registered.
    """
    return load_class(ANSWER_GENERATORS, arguments.answer_engine, "answer_engine")


def answer_key(teacher: str, max_new_tokens: int, question: Question) -> str:
    """Return the cache key: everything an answer depends on."""
    return content_key("answer 2", teacher, max_new_tokens, question.system, question.question)


def pack_answer(answer: Answer) -> bytes:
    return json.dumps(answer._asdict()).encode()


def unpack_answer(value: bytes) -> Answer:
    """Return a packed answer.

    Raises:
        TypeError, ValueError: the bytes are none.
    """
    answer = Answer(**json.loads(value))
    if not isinstance(answer.text, str) or not isinstance(answer.finish_reason, str):
        raise TypeError(f"{answer} is no answer")
    return answer


def length_batches(questions: list[Question], batch_size: int) -> list[list[Question]]:
    """Return batches of similar length; they depend on the questions alone."""
    ordered = sorted(questions, key=lambda question: (len(question.question), question))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
