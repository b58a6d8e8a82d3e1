"""The student's answers to test questions, written or spoken: greedy, batched, shared among processes."""

from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel

from trainer_ext.loss.alignment import pad_rows
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.encode_row import decode_clip, encode_row

MAX_LOGITS = 2**28  # of a batch of prompts: 0.5 GiB in bfloat16
LABELS = {"t2t": "written", "s2t": "spoken"}


def answer_rows(
    model: PreTrainedModel,
    student: StudentEncoder,
    dataset: Dataset,
    channel: str,
    max_new_tokens: int,
    batch_size: int = 32,
) -> list[str]:
    """Return one answer per row, in the order of the rows, the same on every process.

    Args:
        model: the student's model, or its PEFT wrapper.
        dataset: rows of the data contract, speech undecoded.
        channel: "t2t" asks in writing, "s2t" by the row's clip alone.
        batch_size: rows at a time; fewer where their logits would exceed MAX_LOGITS.
    """
    was_training = model.training
    model.eval()
    lengths = dataset["speech_seconds"] if channel == "s2t" else [len(q) for q in dataset["question"]]
    # Rows of similar length share a batch: padding does not change an answer, only its cost.
    order = sorted(range(len(dataset)), key=lambda i: lengths[i])
    state = PartialState()
    ours = order[state.process_index :: state.num_processes]
    answers: list[tuple[int, str]] = []
    with tqdm(
        total=len(ours),
        desc=f"{LABELS[channel]} test questions",
        unit="row",
        disable=not state.is_main_process,
    ) as progress:
        while ours:
            inputs = encode_prompts(student, [dataset[i] for i in ours[:batch_size]], channel)
            # The model computes logits of every token of a prompt, although only the last one's are used.
            tokens = inputs["input_ids"].shape[1]
            fitting = max(1, MAX_LOGITS // (tokens * student.vocab_size))
            if fitting < len(ours[:batch_size]):
                batch_size = fitting
                continue  # the following rows are longer still
            batch, ours = ours[:batch_size], ours[batch_size:]
            texts = generate_greedily(model, student, inputs, max_new_tokens)
            answers += zip(batch, texts, strict=True)
            progress.update(len(batch))
    model.train(was_training)
    return [text for _, text in sorted(gather_object(answers))]


def encode_prompts(student: StudentEncoder, rows: list[dict[str, Any]], channel: str) -> dict[str, torch.Tensor]:
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


def generate_greedily(
    model: PreTrainedModel, student: StudentEncoder, inputs: dict[str, torch.Tensor], max_new_tokens: int
) -> list[str]:
    """Return the answers to one batch, without special tokens."""
    inputs = move_inputs(inputs, model)
    generated = model.generate(**inputs, generation_config=greedy_config(student, max_new_tokens))
    texts = student.tokenizer.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


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
