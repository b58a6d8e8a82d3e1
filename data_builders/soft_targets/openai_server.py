"""Soft targets from an OpenAI-compatible server that returns prompt log-probabilities, as vLLM does.

vLLM's completions take token ids as the prompt and `prompt_logprobs` beside OpenAI's own arguments
(https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html). So the ids are ours, and the answer's tokens are
scored, not generated.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data_builders.chat import TeacherInput
from data_builders.clients.openai import connect, map_request_errors
from data_builders.schema import SoftTarget


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
        with map_request_errors(base_url):
            served = [entry.id for entry in self.client.models.list()]
        if model not in served:
            raise ValueError(
                f"{base_url} serves {', '.join(served)}, not {model}; name it by teacher_model_name_or_path, or by "
                "--served-model-name at the server"
            )

    def score(self, inputs: list[TeacherInput]) -> list[SoftTarget]:
        """Return the soft targets of each input; see `Scorer`."""
        with ThreadPoolExecutor(max_workers=max(len(inputs), 1)) as pool:
            return list(pool.map(self._request, inputs))

    def _request(self, teacher_input: TeacherInput) -> SoftTarget:
        row_id = teacher_input.id
        tokens = teacher_input.prompt_ids + teacher_input.response_ids
        try:
            with map_request_errors(self.base_url):
                response = self.client.completions.create(
                    model=self.model,
                    prompt=tokens,
                    max_tokens=1,
                    temperature=0,
                    extra_body={"prompt_logprobs": self.k},
                )
        except ValueError as error:
            raise ValueError(
                f"row {row_id}: {self.k} log-probabilities were refused: {error}. "
                f"Start vLLM with --max-logprobs {self.k}, or set a smaller soft_targets_k"
            ) from error
        entries = (response.choices[0].model_extra or {}).get("prompt_logprobs")
        if entries is None or len(entries) != len(tokens):
            raise ValueError(f"row {row_id}: the server returned no log-probabilities of the prompt; vLLM does")
        ranked = [self._likeliest(row_id, entry) for entry in entries[len(teacher_input.prompt_ids) :]]
        ids = np.array([[i for i, _ in token] for token in ranked], dtype=np.int64)
        log_probs = np.array([[p for _, p in token] for token in ranked], dtype=np.float32)
        rest = 1 - np.exp(log_probs.astype(np.float64)).sum(axis=1, keepdims=True)
        tails = np.log(np.maximum(rest, np.finfo(np.float32).eps)).astype(np.float32)
        return SoftTarget(ids, log_probs, tails)

    def _likeliest(self, row_id: str, entry: dict[str, Any]) -> list[tuple[int, float]]:
        """Return the k likeliest of a token's {id: {"logprob", "rank"}}, which may list the actual token too."""
        ranked = sorted((item["rank"], int(i), item["logprob"]) for i, item in entry.items())
        best = ranked[: self.k]
        if len(best) < self.k:
            raise ValueError(f"row {row_id}: the server returned {len(best)} log-probabilities, not {self.k}")
        if outside := [i for _, i, _ in best if i >= self.vocab_size]:
            raise ValueError(f"row {row_id}: the server finds id {outside[0]} likely, which the student does not have")
        return [(i, log_prob) for _, i, log_prob in best]
