"""Answers of a causal LM in memory: greedy, batched."""

from collections.abc import Iterator

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_builders.answers.base import Answer, AnswerOutcome, Question
from data_builders.arguments import AnswerArguments
from data_builders.causal_lm import OFFLOAD, TeacherSettings, load_causal_lm
from data_builders.chat import make_messages


class LocalModel:
    """A causal LM and its tokenizer.

    An offloaded model cannot generate, so the device map "offload" is replaced by "auto".
    """

    batched = True

    def __init__(self, settings: TeacherSettings, max_new_tokens: int) -> None:
        self.max_new_tokens = max_new_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(
            settings.name_or_path, revision=settings.revision, padding_side="left"
        )
        if settings.device_map == OFFLOAD:
            settings = settings._replace(device_map="auto")
        self.model = load_causal_lm(settings).eval()
        # `generate` would fill unset options from the published settings: a repetition penalty, for instance.
        self.model.generation_config = GenerationConfig()

    @classmethod
    def from_arguments(cls, arguments: AnswerArguments) -> "LocalModel":
        assert arguments.teacher_model_name_or_path is not None
        settings = TeacherSettings(
            arguments.teacher_model_name_or_path,
            arguments.teacher_model_revision,
            arguments.teacher_dtype,
            arguments.teacher_load_in_4bit,
            arguments.teacher_device_map,
        )
        return cls(settings, arguments.answer_max_new_tokens)

    def generate(self, batches: list[list[Question]]) -> Iterator[tuple[list[Question], list[AnswerOutcome]]]:
        for batch in batches:
            answers = generate_greedily(self.model, self.tokenizer, batch, self.max_new_tokens)
            yield batch, list(answers)

    def close(self) -> None:
        del self.model


@torch.no_grad()
def generate_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[Question],
    max_new_tokens: int,
) -> list[Answer]:
    """Return the greedy answers to one batch."""
    rendered = [
        tokenizer.apply_chat_template(
            make_messages(question.question, question.system),
            add_generation_prompt=True,
            tokenize=False,
        )
        for question in questions
    ]
    inputs = tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
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
    return [Answer(text.strip(), "stop" if end else "length") for text, end in zip(texts, ended, strict=True)]
