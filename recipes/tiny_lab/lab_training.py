"""Training of the tiny lab: the teacher on text, the audio tower by CTC, the student on speech alone."""

import random

import torch
from lab_speech import batch_clips, batch_rows
from torch import nn
from tqdm import tqdm

from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent

REPEAT = "Repeat what you hear."  # the system prompt of the transcription rows
WORD_MARGIN = 15.0  # logits between a word heard clearly and any other


def fit(parameters, loss_of_step, steps: int, learning_rate: float, name: str) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    bar = tqdm(range(steps), desc=name, mininterval=5)
    for step in bar:
        loss = loss_of_step()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


@torch.no_grad()
def score(model, family: Qwen2_5OmniStudent, items: list[tuple[dict, dict | None]]) -> float:
    """Return the percentage of answers whose every token is the greedy one."""
    model.eval()
    right = 0
    for start in range(0, len(items), 64):
        batch = batch_rows(family, items[start : start + 64])
        labels = batch.pop("labels")[:, 1:]
        guesses = model(**batch).logits[:, :-1].argmax(-1)
        right += int(((guesses == labels) | (labels == -100)).all(-1).sum())
    model.train()
    return 100 * right / len(items)


def train_teacher(teacher, family, rows, rng, steps: int) -> None:
    def loss():
        return teacher(**batch_rows(family, [(rng.choice(rows), None) for _ in range(32)])).loss

    fit(list(teacher.parameters()), loss, steps, 2e-3, "teacher")


def spell(text: str) -> list[str]:
    return text.lower().replace("?", "").replace(".", "").split()


def embed_words(teacher, tokenizer, rows: list[dict]) -> tuple[dict[str, int], torch.Tensor]:
    """Return the class of every spoken word, from 1, and the teacher's embedding of it (words, H)."""
    embedding = teacher.get_input_embeddings().weight.detach()
    vocabulary: dict[str, int] = {}
    vectors = []
    for row in rows:
        for at, word in enumerate(row["question"].rstrip("?.").split()):
            if word.lower() not in vocabulary:
                vocabulary[word.lower()] = len(vocabulary) + 1
                ids = tokenizer.encode(f" {word}" if at else word, add_special_tokens=False)
                vectors.append(embedding[ids].mean(0))
    return vocabulary, torch.stack(vectors)


def train_tower(thinker, clips: list[dict], vocabulary, vectors: torch.Tensor, rng, steps: int, batch: int) -> None:
    """Train the tower by CTC whose class vectors are the teacher's embeddings of the words.

    The language model then gets similar embeddings for a spoken and a written word, so that knowledge transfers.
    Spectrograms are masked as in SpecAugment.
    """
    spelled = [spell(clip["text"]) for clip in clips]
    by_length = sorted(range(len(clips)), key=lambda i: clips[i]["features"].shape[1])
    norm = float(vectors.norm(dim=1).mean())
    blank = nn.Parameter(torch.zeros(1, vectors.shape[1]))

    def loss():
        start = rng.randrange(len(clips))
        window = by_length[max(0, start - 200) : start + 200]
        chosen = rng.sample(window, batch)
        inputs = batch_clips([clips[i] for i in chosen])
        hide_stripes(inputs["input_features"], rng)
        heard = thinker.model.get_audio_features(**inputs, return_dict=True).last_hidden_state
        lengths = [family_length(int(n)) for n in inputs["feature_attention_mask"].sum(1)]
        classes = torch.cat([blank, vectors])
        logits = (heard @ classes.T - classes.square().sum(1) / 2) * (WORD_MARGIN / norm**2)
        log_probs = nn.utils.rnn.pad_sequence(torch.split(logits, lengths)).log_softmax(-1)
        targets = [torch.tensor([vocabulary[word] for word in spelled[i]]) for i in chosen]
        misheard = nn.functional.ctc_loss(
            log_probs, torch.cat(targets), torch.tensor(lengths), torch.tensor([len(t) for t in targets]),
            zero_infinity=True,
        )  # fmt: skip
        return misheard + (heard.norm(dim=1) / norm - 1).square().mean()

    fit([*thinker.model.audio_tower.parameters(), blank], loss, steps, 1.5e-3, "tower")


def family_length(frames: int) -> int:
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def hide_stripes(features: torch.Tensor, rng: random.Random) -> None:
    """SpecAugment: up to 16 mel bins and 12 frames of every clip are set to the mean, in place."""
    for clip in features:
        low, width = rng.randrange(112), rng.randrange(1, 17)
        clip[low : low + width] = clip.mean()
        start, length = rng.randrange(max(1, clip.shape[1] - 12)), rng.randrange(1, 13)
        clip[:, start : start + length] = clip.mean()


def adapt_to_speech(thinker, family, rows, clips_of, salads, rng, steps: int, repeat_share: float) -> None:
    """Adapt the student to speech alone with a frozen tower, which causes forgetting on text.

    `repeat_share` of the rows ask for a transcript instead of an answer, as in the adaptation of speech LLMs.
    """
    parameters = [*thinker.model.language_model.parameters(), *thinker.lm_head.parameters()]

    def ask():
        if rng.random() < repeat_share:
            clip = rng.choice(salads) if rng.random() < 0.5 else rng.choice(clips_of[rng.choice(rows)["question"]])
            return {"system": REPEAT, "answer": clip["text"]}, clip
        row = rng.choice(rows)
        return row, rng.choice(clips_of[row["question"]])

    def loss():
        return thinker(**batch_rows(family, [ask() for _ in range(16)])).loss

    fit(parameters, loss, steps, 1e-3, "student")
