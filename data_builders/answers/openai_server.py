"""A teacher behind an OpenAI-compatible server answers: vLLM in real use; greedy, many requests in flight."""

from collections.abc import Iterator

from data_builders.answers.base import REFUSED, Answer, AnsweredBatch, Question
from data_builders.chat import make_messages
from data_builders.clients.concurrent import TemporaryFailure, map_concurrent
from data_builders.clients.openai import connect, map_request_errors


class OpenAIServer:
    """A model behind an OpenAI-compatible server; `in_flight` requests at a time.

    Greedy needs vLLM's `--generation-config vllm`: by default it applies what the model's repository says, for
    Qwen2.5-Instruct a repetition penalty.

    Args:
        model: its name, as the server knows it.
    """

    def __init__(self, base_url: str, model: str, max_new_tokens: int, in_flight: int) -> None:
        self.base_url, self.model, self.in_flight = base_url, model, in_flight
        self.max_new_tokens = max_new_tokens
        self.client = connect(base_url)

    def answer(self, batches: list[list[Question]]) -> Iterator[AnsweredBatch]:
        questions = [question for batch in batches for question in batch]
        for question, result in map_concurrent(self._answer_one, questions, self.in_flight):
            if isinstance(result, ValueError):
                result = Answer(str(result), REFUSED)
            yield [question], result if isinstance(result, TemporaryFailure) else [result]

    def _answer_one(self, question: Question) -> Answer:
        with map_request_errors(self.base_url):
            told = self.client.chat.completions.create(
                model=self.model,
                messages=make_messages(question.question, question.system),
                temperature=0,
                max_tokens=self.max_new_tokens,
            )
        choice = told.choices[0]
        return Answer((choice.message.content or "").strip(), choice.finish_reason or "stop")
