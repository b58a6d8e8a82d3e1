"""A teacher in memory answers: greedy, batched, whole or as its loader fits it into memory."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_builders.answers.base import Answer, AnsweredBatch, Question
from data_builders.chat import make_messages


class LocalModel:
    """A causal LM in memory.

    Args:
        load_model: how it is loaded, where it does not fit whole into memory; None for whole.
    """

    def __init__(
        self,
        name_or_path: str,
        revision: str,
        max_new_tokens: int,
        load_model: Callable[[], PreTrainedModel] | None = None,
        **loading: Any,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, padding_side="left"
        )
        if load_model is None:
            self.model = AutoModelForCausalLM.from_pretrained(
                name_or_path, revision=revision, **loading
            )
        else:
            self.model = load_model()
        self.model.eval()
        # A published model's own settings (a repetition penalty, for one) would fill what we leave unset.
        self.model.generation_config = GenerationConfig()

    def answer(self, batches: list[list[Question]]) -> Iterator[AnsweredBatch]:
        for batch in batches:
            yield batch, generate_greedily(self.model, self.tokenizer, batch, self.max_new_tokens)


@torch.no_grad()
def generate_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[Question],
    max_new_tokens: int,
) -> list[Answer]:
    """One batch of greedy answers."""
    rendered = [
        tokenizer.apply_chat_template(
            make_messages(question.question, question.system),
            add_generation_prompt=True,
            tokenize=False,
        )
        for question in questions
    ]
    inputs = tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False).to(
        model.device
    )
    generated = model.generate(
        **inputs,
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
    )[:, inputs["input_ids"].shape[1] :]
    ended = (generated == tokenizer.eos_token_id).any(dim=1).tolist()
    texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
    return [
        Answer(text.strip(), "stop" if end else "length")
        for text, end in zip(texts, ended, strict=True)
    ]
