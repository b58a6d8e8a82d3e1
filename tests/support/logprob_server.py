"""A real HTTP server in the shape of vLLM's OpenAI-compatible one, with a small model behind it."""

import json
import threading

import torch

from tests.support.http_server import JsonHandler, LocalServer


class LogprobHttpServer(LocalServer):
    """GET /v1/models and POST /v1/completions with `prompt_logprobs`, as vLLM answers them.

    Args:
        max_logprobs: more than these are refused, as `--max-logprobs` does.
        owned_by: the server's own name in its list of models.
    """

    def __init__(self, model, name: str, max_logprobs: int = 20, owned_by: str = "tests") -> None:
        self.model, self.name, self.max_logprobs, self.owned_by = model, name, max_logprobs, owned_by
        self.lock = threading.Lock()
        outer = self

        class Handler(JsonHandler):
            def do_GET(self):
                self.reply(200, {"object": "list", "data": [outer.describe()]})

            def do_POST(self):
                asked = json.loads(self.read_body())
                self.reply(*outer.complete(asked))

        super().__init__(Handler)

    def describe(self) -> dict:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": self.owned_by}

    def complete(self, asked: dict) -> tuple[int, dict]:
        k = asked["prompt_logprobs"]
        if k > self.max_logprobs:
            message = f"Requested prompt logprobs of {k}, which is greater than max allowed: {self.max_logprobs}"
            return 400, {"error": {"message": message, "type": "BadRequestError", "code": 400}}
        ids = asked["prompt"]
        with self.lock, torch.no_grad():
            log_probs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        told: list[dict | None] = [None]
        for position, actual in enumerate(ids[1:]):
            order = log_probs[position].argsort(descending=True)
            entry = {}
            for rank, token in enumerate(order.tolist(), start=1):
                if rank <= k or token == actual:
                    entry[str(token)] = {
                        "logprob": log_probs[position, token].item(),
                        "rank": rank,
                        "decoded_token": "",
                    }
            # The actual token comes first, as it does at the server.
            told.append({str(actual): entry.pop(str(actual)), **entry})
        choice = {
            "index": 0,
            "text": "",
            "logprobs": None,
            "finish_reason": "length",
            "prompt_logprobs": told,
        }
        return 200, {
            "id": "cmpl-0",
            "object": "text_completion",
            "created": 0,
            "model": self.name,
            "choices": [choice],
        }
