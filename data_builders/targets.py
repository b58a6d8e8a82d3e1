"""The teacher's own answers, the hard targets that work best (paper, table 2: teacher CE 75.66, gold CE 71.25).

In: prompts and a text LLM. Out: one answer a question, journaled batch by batch.
"""

import json
from collections.abc import Callable

import torch
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_builders.journal import Journal, content_key
from data_builders.prompts import Prompt
from data_builders.schema import make_messages


def answer_prompts(
    prompts: list[Prompt],
    journal: Journal,
    teacher_name_or_path: str,
    teacher_identity: str,
    max_new_tokens: int = 256,
    revision: str = "main",
    batch_size: int = 32,
    load_model: Callable[[], PreTrainedModel] | None = None,
) -> list[str | None]:
    """The teacher's greedy answers, in the order of the prompts.

    The model is loaded only when an answer is missing from the journal.

    Args:
        teacher_identity: what distinguishes this teacher from any other; part of the journal's key.
        load_model: how it is loaded, where it does not fit whole into memory; None for whole, on the CPU.

    Returns:
        One answer a prompt; None where the teacher was cut off at `max_new_tokens`, since half an answer is no target.
    """
    keys = [
        content_key(
            "answer", teacher_identity, max_new_tokens, prompt["system"], prompt["question"]
        )
        for prompt in prompts
    ]
    missing = set(journal.missing(keys))
    todo = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key in missing}
    if todo:
        tokenizer = AutoTokenizer.from_pretrained(
            teacher_name_or_path, revision=revision, padding_side="left"
        )
        if load_model is None:
            model = AutoModelForCausalLM.from_pretrained(teacher_name_or_path, revision=revision)
        else:
            model = load_model()
        model.eval()
        # A published model's own settings (a repetition penalty, for one) would fill what we leave unset.
        model.generation_config = GenerationConfig()
        # Questions of like length share a batch.
        order = sorted(todo, key=lambda key: len(todo[key]["question"]))
        with tqdm(total=len(order), desc="teacher answers", unit="row") as progress:
            for start in range(0, len(order), batch_size):
                some = order[start : start + batch_size]
                answers = generate_greedily(
                    model, tokenizer, [todo[key] for key in some], max_new_tokens
                )
                for key, answer in zip(some, answers, strict=True):
                    journal.put(key, json.dumps(answer).encode())
                progress.update(len(some))
    return [json.loads(journal.get(key) or b"null") for key in keys]


@torch.no_grad()
def generate_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    max_new_tokens: int,
) -> list[str | None]:
    """One batch of greedy answers; None for an answer that did not end by itself."""
    rendered = [
        tokenizer.apply_chat_template(
            make_messages(prompt["question"], prompt["system"]),
            add_generation_prompt=True,
            tokenize=False,
        )
        for prompt in prompts
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
    return [text.strip() if end else None for text, end in zip(texts, ended, strict=True)]
