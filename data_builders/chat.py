"""Messages and token ids that a text LLM reads, and their hashes."""

import hashlib
import json
from typing import Any

# What an empty `system` means, to teacher and student alike (another one costs 0.6 points of AlpacaEval).
DEFAULT_SYSTEM = "You are a helpful assistant."


def make_messages(question: str, system: str) -> list[dict[str, str]]:
    """A question asked in writing, as chat templates take it."""
    return [
        {"role": "system", "content": system or DEFAULT_SYSTEM},
        {"role": "user", "content": question},
    ]


def encode_question(tokenizer: Any, question: str, system: str) -> list[int]:
    """Token ids of a question as a text LLM reads it, up to where the answer starts."""
    return tokenizer.apply_chat_template(
        make_messages(question, system), add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]


def encode_answer(tokenizer: Any, response: str) -> list[int]:
    """Token ids the loss scores: the answer and the end of the turn."""
    return [*tokenizer.encode(response, add_special_tokens=False), tokenizer.eos_token_id]


def hash_tokens(token_ids: list[int]) -> str:
    """Names the tokens of a prompt or a response, so that soft targets are never read beside others."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()[:16]


def hash_question(question: str, system: str) -> str:
    """Names what a teacher was asked."""
    return hashlib.sha256(json.dumps(make_messages(question, system)).encode()).hexdigest()[:16]


def hash_vocabulary(tokenizer: Any) -> str:
    """Names a tokenizer by its learned tokens; special tokens differ between a text LLM and its speech LLM."""
    added = set(tokenizer.get_added_vocab())
    learned = sorted((i, token) for token, i in tokenizer.get_vocab().items() if token not in added)
    return hashlib.sha256(json.dumps(learned).encode()).hexdigest()[:16]
