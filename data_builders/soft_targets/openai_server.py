"""Soft targets from an OpenAI-compatible server that returns prompt log-probabilities, as vLLM does.

vLLM's completions take token ids as the prompt and `prompt_logprobs` beside OpenAI's own arguments
(https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html). So the ids are ours, and the answer's tokens are
scored, not generated.
"""

import itertools
from typing import Any

import numpy as np

from data_builders.chat import TeacherInput
from data_builders.clients.concurrent import map_concurrent
from data_builders.clients.openai import connect, list_models, map_request_errors, read_reply
from data_builders.schema import SoftTarget
from data_builders.soft_targets.cache import ScoreOutcome

ROUNDING = 1e-3  # of a server's log-probabilities


class ServerScorer:
    """A model behind a server; one request per input, all inputs of a call at a time.

    Args:
        base_url: for instance http://localhost:8000/v1
        model: its name at the server.
        vocab_size: ids from here on are not the student's.
        k: kept ids per token.

    Raises:
        ValueError: the server does not have the model.
        ServerUnreachable: the server does not answer.
    """

    def __init__(self, base_url: str, model: str, vocab_size: int, k: int) -> None:
        self.client = connect(base_url)
        self.base_url, self.model, self.vocab_size, self.k = base_url, model, vocab_size, k
        served = [str(entry.get("id")) for entry in list_models(self.client, base_url)]
        if model not in served:
            raise ValueError(
                f"{base_url} serves {', '.join(served)}, not {model}; name it by teacher_model_name_or_path, or by "
                "--served-model-name at the server"
            )

    def score(self, inputs: list[TeacherInput]) -> list[ScoreOutcome]:
        """Return the soft targets of each input, or why it has none; see `Scorer`."""
        outcomes = dict(map_concurrent(lambda i: self._request(inputs[i]), range(len(inputs)), len(inputs)))
        return [outcomes[i] for i in range(len(inputs))]

    def _request(self, teacher_input: TeacherInput) -> SoftTarget:
        tokens = teacher_input.prompt_ids + teacher_input.response_ids
        try:
            with map_request_errors(self.base_url):
                raw = self.client.completions.with_raw_response.create(
                    model=self.model,
                    prompt=tokens,
                    max_tokens=1,
                    temperature=0,
                    extra_body={"prompt_logprobs": self.k},
                )
        except ValueError as error:
            raise ValueError(
                f"{self.k} log-probabilities were refused: {error}. "
                f"Start vLLM with --max-logprobs {self.k}, or set a smaller soft_targets_k"
            ) from error
        choices = read_reply(raw, self.base_url).get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        entries = choice.get("prompt_logprobs") if isinstance(choice, dict) else None
        if not isinstance(entries, list) or len(entries) != len(tokens):
            raise ValueError("the server returned no log-probabilities of the prompt; vLLM does")
        ranked = [self._likeliest(entry) for entry in entries[len(teacher_input.prompt_ids) :]]
        ids = np.array([[i for i, _ in token] for token in ranked], dtype=np.int64)
        log_probs = np.array([[p for _, p in token] for token in ranked], dtype=np.float32)
        rest = 1 - np.exp(log_probs.astype(np.float64)).sum(axis=1, keepdims=True)
        tails = np.log(np.maximum(rest, np.finfo(np.float32).eps)).astype(np.float32)
        return SoftTarget(ids, log_probs, tails)

    def _likeliest(self, entry: Any) -> list[tuple[int, float]]:
        """Return the k likeliest of a token's {id: {"logprob", "rank"}}, which may list the actual token too.

        Raises:
            ValueError: the entry is malformed, or no distribution.
        """
        try:
            ranked = sorted((int(item["rank"]), int(i), float(item["logprob"])) for i, item in entry.items())
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the server returned malformed log-probabilities: {str(entry)[:100]}") from error
        best = [(i, log_prob) for _, i, log_prob in ranked[: self.k]]
        ids, log_probs = {i for i, _ in best}, [log_prob for _, log_prob in best]
        if len(ids) < self.k:
            raise ValueError(f"the server returned {len(ids)} log-probabilities, not {self.k}")
        if outside := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise ValueError(f"the server finds id {outside[0]} likely, which the student does not have")
        if not all(low <= high + ROUNDING for high, low in itertools.pairwise([0.0, *log_probs])):  # NaN too
            raise ValueError(f"the server's log-probabilities are none, or do not fall by rank: {log_probs[:3]}")
        return best
