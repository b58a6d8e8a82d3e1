"""Log-probabilities of prompt tokens from an OpenAI-compatible server, the way vLLM returns them.

vLLM's completions take token ids as the prompt and `prompt_logprobs` beside OpenAI's own arguments
(https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html), so the ids are ours, and the answer's tokens are
read, not generated.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data_builders.clients.openai import connect, map_request_errors
from data_builders.schema import SoftTarget
from data_builders.soft_targets.cache import TeacherInput


class ServerScorer:
    """A model behind a server; as many requests at a time as there are readings in a call.

    Args:
        base_url: for instance http://localhost:8000/v1
        model: its name, which must be the one the server has.
        vocab_size: ids from here on are not the student's.
        k: ids kept a token.

    Raises:
        ValueError: the server does not have the model.
        ServerUnreachable: it does not answer.
    """

    def __init__(self, base_url: str, model: str, vocab_size: int, k: int) -> None:
        self.client = connect(base_url)
        self.model, self.vocab_size, self.k = model, vocab_size, k
        self.base_url = base_url
        with map_request_errors(base_url):
            served = [entry.id for entry in self.client.models.list()]
        if model not in served:
            raise ValueError(
                f"{base_url} serves {', '.join(served)}, not {model}; name it by teacher_model_name_or_path, or by "
                "--served-model-name at the server"
            )

    def score(self, readings: list[TeacherInput]) -> list[SoftTarget]:
        with ThreadPoolExecutor(max_workers=max(len(readings), 1)) as pool:
            return list(pool.map(self._score_one, readings))

    def _score_one(self, reading: TeacherInput) -> SoftTarget:
        tokens = reading.prompt_ids + reading.response_ids
        try:
            with map_request_errors(self.base_url):
                answer = self.client.completions.create(
                    model=self.model,
                    prompt=tokens,
                    max_tokens=1,
                    temperature=0,
                    extra_body={"prompt_logprobs": self.k},
                )
        except ValueError as error:
            raise ValueError(
                f"row {reading.id}: the server refused to tell {self.k} log-probabilities: {error}. "
                f"Start vLLM with --max-logprobs {self.k}, or set a smaller soft_targets_k"
            ) from error
        told = (answer.choices[0].model_extra or {}).get("prompt_logprobs")
        if told is None or len(told) != len(tokens):
            raise ValueError(
                f"row {reading.id}: the server returned no log-probabilities of the prompt; vLLM does"
            )
        ranked = [self._rank(reading.id, entry) for entry in told[len(reading.prompt_ids) :]]
        ids = np.array([[i for i, _ in token] for token in ranked], dtype=np.int64)
        log_probs = np.array([[p for _, p in token] for token in ranked], dtype=np.float32)
        rest = 1 - np.exp(log_probs.astype(np.float64)).sum(axis=1, keepdims=True)
        tails = np.log(np.maximum(rest, np.finfo(np.float32).eps)).astype(np.float32)
        return SoftTarget(ids, log_probs, tails)

    def _rank(self, row_id: str, entry: dict[str, Any]) -> list[tuple[int, float]]:
        """The k likeliest of a token's entry {id: {"logprob", "rank"}}, which may name the actual token besides."""
        best = sorted((item["rank"], int(i), item["logprob"]) for i, item in entry.items())[
            : self.k
        ]
        if len(best) < self.k:
            raise ValueError(
                f"row {row_id}: the server told {len(best)} log-probabilities, not {self.k}"
            )
        if outside := [i for _, i, _ in best if i >= self.vocab_size]:
            raise ValueError(
                f"row {row_id}: the server finds id {outside[0]} likely, which the student does not have"
            )
        return [(i, log_prob) for _, i, log_prob in best]
