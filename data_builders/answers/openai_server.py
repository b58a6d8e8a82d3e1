"""Answers of a model behind an OpenAI-compatible server: greedy, many requests in flight."""

from collections.abc import Iterator

from data_builders.answers.base import STAGE, Answer, AnswerOutcome, Question
from data_builders.arguments import AnswerArguments
from data_builders.chat import make_messages
from data_builders.clients.concurrent import map_concurrent
from data_builders.clients.openai import connect, map_request_errors
from data_builders.outcomes import Rejected


class OpenAIServer:
    """A model behind an OpenAI-compatible server.

    Greedy decoding needs vLLM's `--generation-config vllm`: its default applies the settings of the model's repository,
    for Qwen2.5-Instruct a repetition penalty.

    Args:
        model: its name at the server.
        in_flight: requests at a time.
    """

    batched = False

    def __init__(self, base_url: str, model: str, max_new_tokens: int, in_flight: int) -> None:
        self.base_url, self.model, self.in_flight = base_url, model, in_flight
        self.max_new_tokens = max_new_tokens
        self.client = connect(base_url)

    @classmethod
    def from_arguments(cls, arguments: AnswerArguments) -> "OpenAIServer":
        assert arguments.teacher_base_url is not None
        assert arguments.teacher_model_name_or_path is not None
        return cls(
            arguments.teacher_base_url,
            arguments.teacher_model_name_or_path,
            arguments.answer_max_new_tokens,
            arguments.answer_batch_size,
        )

    def generate(self, batches: list[list[Question]]) -> Iterator[tuple[list[Question], list[AnswerOutcome]]]:
        questions = [question for batch in batches for question in batch]
        for question, outcome in map_concurrent(self._request, questions, self.in_flight):
            if isinstance(outcome, ValueError):
                yield [question], [Rejected(STAGE, "not_answered", str(outcome))]
            else:
                yield [question], [outcome]

    def _request(self, question: Question) -> Answer:
        with map_request_errors(self.base_url):
            response = self.client.chat.completions.create(
                model=self.model,
                messages=make_messages(question.question, question.system),
                temperature=0,
                max_tokens=self.max_new_tokens,
            )
        choice = response.choices[0]
        return Answer((choice.message.content or "").strip(), choice.finish_reason or "stop")

    def close(self) -> None:
        self.client.close()
