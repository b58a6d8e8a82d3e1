"""Answers of a model behind an OpenAI-compatible server: greedy, many requests in flight.

A question goes to the server's chat, whose template then gives the ids that training computes. A question with the
name of a control token in it goes as token ids instead: a server reads `<|im_end|>` in a chat as the end of the turn.
"""

from collections.abc import Iterator
from typing import Any

from transformers import GenerationConfig

from data_builders.answers.base import STAGE, Answer, AnswerOutcome, Question
from data_builders.answers.local_model import list_stop_ids
from data_builders.arguments import AnswerArguments
from data_builders.chat import make_messages
from data_builders.chat_encoder import ChatEncoder
from data_builders.clients.concurrent import map_concurrent
from data_builders.clients.openai import connect, list_models, map_request_errors, read_choice, read_reply
from data_builders.outcomes import Rejected, ServerUnreachable, TemporaryFailure
from data_builders.pretrained import load_tokenizer

# Servers that take these arguments beside OpenAI's own, by their name in /v1/models.
TAKES_SAMPLING_ARGUMENTS = ("vllm", "sglang")
LIST_SECONDS = 20  # to wait for the list of models


class OpenAIServer:
    """A model behind an OpenAI-compatible server.

    vLLM and SGLang apply the published generation settings, for Qwen2.5-Instruct a repetition penalty, unless a request
    says otherwise; every request says so. Another server must decode greedily by itself.

    Args:
        model: its name at the server. If it names a folder or a Hub repository too, its tokenizer tells which questions
            hold control tokens; otherwise all go to the chat as they are.
        in_flight: requests at a time.
    """

    batched = False

    def __init__(self, base_url: str, model: str, revision: str, max_new_tokens: int, in_flight: int) -> None:
        self.base_url, self.model, self.in_flight = base_url, model, in_flight
        self.max_new_tokens = max_new_tokens
        self.client = connect(base_url)
        self.chat, stop_ids = load_chat(model, revision)
        self.sampling: dict[str, Any] = {}
        if self._takes_sampling_arguments():
            self.sampling = {"repetition_penalty": 1.0, "stop_token_ids": stop_ids}

    @classmethod
    def from_arguments(cls, arguments: AnswerArguments) -> "OpenAIServer":
        assert arguments.teacher_base_url is not None
        assert arguments.teacher_model_name_or_path is not None
        return cls(
            arguments.teacher_base_url,
            arguments.teacher_model_name_or_path,
            arguments.teacher_model_revision,
            arguments.answer_max_new_tokens,
            arguments.answer_batch_size,
        )

    def generate(self, batches: list[list[Question]]) -> Iterator[tuple[list[Question], list[AnswerOutcome]]]:
        questions = [question for batch in batches for question in batch]
        for question, outcome in map_concurrent(self.request, questions, self.in_flight):
            if isinstance(outcome, ValueError):
                yield [question], [Rejected(STAGE, "not_answered", str(outcome))]
            else:
                yield [question], [outcome]

    def request(self, question: Question) -> Answer:
        """Return the answer to one question.

        Raises:
            ValueError, TemporaryFailure, ServerUnreachable: see `map_request_errors`.
        """
        with map_request_errors(self.base_url):
            if self.chat is None or not self.chat.names_control_token(*question):
                return self.chat_once(make_messages(question.question, question.system))
            prompt = self.chat.encode_prompt(question.question, question.system)
            raw = self.client.completions.with_raw_response.create(model=self.model, prompt=prompt, **self._options())
        return self._read(raw)

    def chat_once(self, messages: Any) -> Answer:
        """Return the answer to a conversation; the client's errors pass."""
        create = self.client.chat.completions.with_raw_response.create
        return self._read(create(model=self.model, messages=messages, **self._options()))

    def _read(self, raw: Any) -> Answer:
        text, reason = read_choice(read_reply(raw, self.base_url), self.base_url)
        return Answer(text.strip(), reason)

    def _options(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": self.max_new_tokens, "extra_body": self.sampling}

    def _takes_sampling_arguments(self) -> bool:
        """Tell by the server's list of models; a server without one, or out of reach, is taken for a plain one."""
        client = self.client.with_options(max_retries=0, timeout=LIST_SECONDS)
        try:
            return any(
                entry.get("owned_by") in TAKES_SAMPLING_ARGUMENTS for entry in list_models(client, self.base_url)
            )
        except (ServerUnreachable, TemporaryFailure, ValueError):
            return False

    def close(self) -> None:
        self.client.close()


def load_chat(model: str, revision: str) -> tuple[ChatEncoder | None, list[int]]:
    """Return the encoder and the stop ids of a model.

    No encoder for a model without a chat template (Mistral's), which its server renders by a library; and no stop ids
    for a name that only the server knows.
    """
    try:
        tokenizer = load_tokenizer(model, revision)
    except (OSError, ValueError):
        return None, []
    try:
        published = GenerationConfig.from_pretrained(model, revision=revision)
    except OSError:  # it has none
        published = GenerationConfig()
    encoder = None if tokenizer.chat_template is None else ChatEncoder(tokenizer)
    return encoder, list_stop_ids(published, tokenizer)
