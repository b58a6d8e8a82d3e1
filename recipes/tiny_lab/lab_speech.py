"""Speech of the tiny lab by espeak-ng, and batches of text, speech and sounds."""

import random

import torch
from torch import nn
from tqdm import tqdm

from data_builders.audio import resample_speech
from data_builders.speech.tts.espeak import EspeakEngine
from trainer_ext.students.encode_row import encode_row
from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent

# The tower's training voices; those of the evaluation (`recipes/configs/tiny.yaml`) are not among them.
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = (
    "", "+f1", "+f2", "+f3", "+f5", "+m1", "+m2", "+m4", "+m6", "+m7", "+m8", "+Andrea", "+Annie", "+Denis", "+Jacky",
    "+Lee", "+Michael", "+Mike", "+adam", "+linda", "+belinda", "+steph", "+marcelo", "+edward",
)  # fmt: skip
WORDS_PER_MINUTE = (140, 155, 170, 185, 200)
PITCHES = (30, 40, 50, 60, 70)
CLIPS_PER_QUESTION = 12
WORD_SALADS = 4000


class Clips:
    """Utterances with their features, synthesized once and kept in memory as float16."""

    def __init__(self, family: Qwen2_5OmniStudent) -> None:
        self.family = family
        self.engine = EspeakEngine()

    def speak(self, text: str, voice: str) -> dict:
        samples = resample_speech(*self.engine.synthesize(text, voice))
        features = self.family.extract_features([samples])["input_features"][0]
        return {"text": text, "samples": len(samples), "features": features.half()}


def speak_world(rows: list[dict], clips: Clips, seed: int) -> tuple[dict[str, list[dict]], list[dict]]:
    """Synthesize every question in `CLIPS_PER_QUESTION` voices, and its words in random order for the CTC training."""
    rng = random.Random(seed)
    clips_of = {
        row["question"]: [clips.speak(row["question"], random_voice(rng)) for _ in range(CLIPS_PER_QUESTION)]
        for row in tqdm(rows, desc="espeak-ng", mininterval=5)
    }
    words = sorted({word for row in rows for word in row["question"].rstrip("?.").split()})
    salads = [
        clips.speak(" ".join(rng.sample(words, rng.randint(2, 6))), random_voice(rng))
        for _ in tqdm(range(WORD_SALADS), desc="word salads", mininterval=5)
    ]
    return clips_of, salads


def random_voice(rng: random.Random) -> str:
    return f"{rng.choice(ACCENTS)}{rng.choice(VARIANTS)}/{rng.choice(WORDS_PER_MINUTE)}/{rng.choice(PITCHES)}"


def batch_clips(clips: list[dict]) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([clip["features"].shape[1] for clip in clips])
    features = nn.utils.rnn.pad_sequence([clip["features"].float().T for clip in clips], batch_first=True)
    return {
        "input_features": features.transpose(1, 2).contiguous(),
        "feature_attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
    }


def batch_rows(family: Qwen2_5OmniStudent, items: list[tuple[dict, dict | None]]) -> dict[str, torch.Tensor]:
    """Return right-padded inputs and labels; an item is (row, clip), or (row, None) for text.

    The question of a row is in its clip, unless the row has a `channel` of its own.
    """
    prompts = [
        encode_row(
            family,
            {"system": "", **row},
            row.get("channel", "t2t" if clip is None else "s2t"),
            0 if clip is None else clip["samples"],
        )
        for row, clip in items
    ]
    responses = [family.encode_response(row["answer"]) for row, _ in items]
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    ids = torch.full((len(items), width), family.tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        ids[i, :end] = torch.tensor(prompt + response)
        labels[i, len(prompt) : end] = torch.tensor(response)
        mask[i, :end] = 1
    clips = [clip for _, clip in items if clip is not None]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        **(batch_clips(clips) if clips else {}),
    }
