"""The student's answers to test questions, asked in writing or by voice: greedy, batched, shared among processes."""

from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel

from data_builders.audio import decode_speech
from trainer_ext.loss.alignment import pad_rows

MAX_LOGITS = 2**28  # of a batch of prompts: 0.5 GiB in bfloat16


def answer_rows(
    model: PreTrainedModel,
    family: Any,
    dataset: Dataset,
    channel: str,
    max_new_tokens: int,
    batch_size: int = 32,
) -> list[str]:
    """One answer a row, in the order of the rows, the same on every process.

    Args:
        model: the student, or its PEFT wrapper.
        dataset: rows of the data contract, speech undecoded.
        channel: "t2t" asks in writing, "s2t" by the row's clip alone.
        batch_size: rows at a time, fewer where their logits would be too many.
    """
    was_training = model.training
    model.eval()
    lengths = (
        dataset["speech_seconds"] if channel == "s2t" else [len(q) for q in dataset["question"]]
    )
    # Rows of like length share a batch; padding does not change an answer, only its cost.
    order = sorted(range(len(dataset)), key=lambda i: lengths[i])
    state = PartialState()
    mine = order[state.process_index :: state.num_processes]
    asked = "spoken" if channel == "s2t" else "written"
    answers: list[tuple[int, str]] = []
    with tqdm(
        total=len(mine),
        desc=f"{asked} test questions",
        unit="row",
        disable=not state.is_main_process,
    ) as progress:
        while mine:
            inputs = encode_prompts(family, [dataset[i] for i in mine[:batch_size]], channel)
            # The model makes logits of every token of a prompt, and needs those of the last.
            tokens = inputs["input_ids"].shape[1]
            fitting = max(1, MAX_LOGITS // (tokens * family.vocab_size))
            if fitting < len(mine[:batch_size]):
                batch_size = fitting
                continue  # the rows that follow are longer still
            some, mine = mine[:batch_size], mine[batch_size:]
            texts = generate_greedily(model, family, inputs, max_new_tokens)
            answers += zip(some, texts, strict=True)
            progress.update(len(some))
    model.train(was_training)
    return [text for _, text in sorted(gather_object(answers))]


def encode_prompts(
    family: Any, rows: list[dict[str, Any]], channel: str
) -> dict[str, torch.Tensor]:
    """Left-padded prompts of one channel, as generation wants them."""
    clips = []
    prompts: list[list[int]] = []
    for row in rows:
        if channel == "t2t":
            prompts.append(family.encode_text_prompt(row["question"], row["system"]))
        else:
            clips.append(decode_speech(row["speech"], row["id"]))
            prompts.append(family.encode_speech_prompt(len(clips[-1]), row["system"]))
    return pad_prompts(family, prompts, clips)


def pad_prompts(
    family: Any, prompts: list[list[int]], clips: list[np.ndarray]
) -> dict[str, torch.Tensor]:
    """Token ids and the clips among them as one batch, padded on the left: an answer follows at the right."""
    padded = pad_rows(prompts, [[]] * len(prompts), family.tokenizer.pad_token_id, "left")
    del padded["labels"]
    return {**padded, **family.extract_features(clips)}


def generate_greedily(
    model: PreTrainedModel, family: Any, inputs: dict[str, torch.Tensor], max_new_tokens: int
) -> list[str]:
    """Answers to one batch, special tokens left out."""
    inputs = move_inputs(inputs, model)
    generated = model.generate(**inputs, generation_config=make_greedy(family, max_new_tokens))
    texts = family.tokenizer.batch_decode(
        generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [text.strip() for text in texts]


def move_inputs(inputs: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """To the model's device, features in its precision."""
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for key, value in inputs.items()
    }


def make_greedy(family: Any, max_new_tokens: int) -> GenerationConfig:
    """The likeliest token every time, whatever a checkpoint's own generation config says."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=family.eos_token_id,
        pad_token_id=family.tokenizer.pad_token_id,
    )
