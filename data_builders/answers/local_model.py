"""Answers of a causal LM in memory: greedy, batched."""

from collections.abc import Iterator

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from data_builders.answers.base import Answer, AnswerOutcome, Question
from data_builders.arguments import AnswerArguments
from data_builders.causal_lm import OFFLOAD, TeacherSettings, load_causal_lm
from data_builders.chat_encoder import ChatEncoder
from data_builders.pretrained import load_tokenizer


class LocalModel:
    """A causal LM and its tokenizer.

    An offloaded model cannot generate, so the device map "offload" is replaced by "auto".
    """

    batched = True

    def __init__(self, settings: TeacherSettings, max_new_tokens: int) -> None:
        self.max_new_tokens = max_new_tokens
        self.tokenizer = load_tokenizer(settings.name_or_path, settings.revision, padding_side="left")
        if settings.device_map == OFFLOAD:
            settings = settings._replace(device_map="auto")
        self.model = load_causal_lm(settings).eval()
        self.stop_ids = list_stop_ids(self.model.generation_config, self.tokenizer)
        self.chat = ChatEncoder(self.tokenizer)
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
            prompts = [self.chat.encode_prompt(question.question, question.system) for question in batch]
            answers = generate_greedily(self.model, self.tokenizer, prompts, self.max_new_tokens, self.stop_ids)
            yield batch, list(answers)

    def close(self) -> None:
        del self.model


def list_stop_ids(published: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end an answer: the published ones (Qwen2.5 has two), and the tokenizer's end of turn."""
    ids = published.eos_token_id
    ids = [] if ids is None else [ids] if isinstance(ids, int) else ids
    return list(dict.fromkeys([tokenizer.eos_token_id, *ids]))


@torch.no_grad()
def generate_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    stop_ids: list[int],
) -> list[Answer]:
    """Return the greedy answers to one batch of prompts; what follows a stop id is left out."""
    inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)
    generated = model.generate(
        **inputs,
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=stop_ids,
            pad_token_id=tokenizer.pad_token_id,
        ),
    )[:, inputs["input_ids"].shape[1] :]
    answers = []
    for ids in generated.tolist():
        end = next((at for at, token_id in enumerate(ids) if token_id in stop_ids), None)
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        answers.append(Answer(text.strip(), "length" if end is None else "stop"))
    return answers
