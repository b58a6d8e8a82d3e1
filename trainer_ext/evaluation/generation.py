"""Greedy, batched generation by a student: prompts of a channel -> answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from trainer_ext.evaluation.items import LENGTH, STOP, Answer
from trainer_ext.loss.alignment import pad_rows
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.encode_row import decode_clip, encode_row

MAX_LOGITS = 2**28  # of a batch of prompts: 0.5 GiB in bfloat16


def cut_batches(lengths: Sequence[int], batch_size: int, vocab_size: int) -> list[list[int]]:
    """Return batches of prompts, as positions, of similar length; they depend on the arguments alone.

    The model computes logits of every token of a prompt, although only the last one's are used: of long prompts, fewer
    share a batch.

    Args:
        lengths: tokens of each prompt.
        batch_size: prompts at a time; fewer where their logits would exceed MAX_LOGITS.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches: list[list[int]] = []
    for i in order:
        fits = bool(batches) and len(batches[-1]) < batch_size
        if fits and (len(batches[-1]) + 1) * lengths[i] * vocab_size <= MAX_LOGITS:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def encode_prompts(student: StudentEncoder, rows: Sequence[dict[str, Any]], channel: str) -> dict[str, torch.Tensor]:
    """Return left-padded prompts of one channel, for generation."""
    clips = [decode_clip(row, channel) for row in rows]
    prompts = [
        encode_row(student, row, channel, 0 if clip is None else len(clip))
        for row, clip in zip(rows, clips, strict=True)
    ]
    return pad_prompts(student, prompts, [clip for clip in clips if clip is not None])


def pad_prompts(student: StudentEncoder, prompts: list[list[int]], clips: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Return token ids and audio features as one batch, padded on the left for generation."""
    padded = pad_rows(prompts, [[]] * len(prompts), student.tokenizer.pad_token_id, "left")
    del padded["labels"]
    return {**padded, **student.extract_features(clips)}


@torch.no_grad()
def generate_greedily(
    model: PreTrainedModel, student: StudentEncoder, inputs: dict[str, torch.Tensor], max_new_tokens: int
) -> list[Answer]:
    """Return the answers to one batch, without special tokens."""
    inputs = move_inputs(inputs, model)
    generated = model.generate(**inputs, generation_config=greedy_config(student, max_new_tokens))
    return [read_answer(student, ids) for ids in generated[:, inputs["input_ids"].shape[1] :].tolist()]


def read_answer(student: StudentEncoder, ids: list[int]) -> Answer:
    """Return generated token ids, padded after the end of the turn, as an answer."""
    ended = student.eos_token_id in ids
    tokens = ids.index(student.eos_token_id) + 1 if ended else len(ids)
    text = student.tokenizer.decode(ids[:tokens], skip_special_tokens=True)
    return Answer(text.strip(), STOP if ended else LENGTH, tokens)


def move_inputs(inputs: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Move inputs to the model's device, features in its precision."""
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None) for key, value in inputs.items()
    }


def greedy_config(student: StudentEncoder, max_new_tokens: int) -> GenerationConfig:
    """Return greedy decoding, independent of the checkpoint's own generation config."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=student.eos_token_id,
        pad_token_id=student.tokenizer.pad_token_id,
    )
