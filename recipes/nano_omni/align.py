"""Train a tower's new layers and its projector by CTC on the language model's token embeddings.

    states of the frozen layers -> new layers -> pooling by two -> ln_post -> proj      (T, H), 25 frames per second
    cosine of every frame with the embedding of every token and with a blank -> CTC on the tokens of what is said

A spoken word then looks to the language model as its written tokens do. The language model itself does not run, which
makes this stage cheap.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss, normalize
from torch.nn.utils.rnn import pad_sequence
from tower_states import ClipStates, StatesOnDisk
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from trainer_ext.checkpoints.callback import CompleteCheckpointCallback
from trainer_ext.checkpoints.resume import resolve_resume

FIRST_SCALE = 12.0  # of cosines to logits; trained


class Aligner(nn.Module):
    """The trained part of a tower, and the classes of its CTC.

    Args:
        tower: the audio tower; its layers from `frozen_layers` on, its norm and its projector are trained.
        classes: (C, H) embeddings of the tokens that the training texts use.
    """

    def __init__(self, tower: nn.Module, frozen_layers: int, classes: Tensor) -> None:
        super().__init__()
        self.layers = tower.layers[frozen_layers:]
        self.ln_post, self.proj = tower.ln_post, tower.proj
        self.register_buffer("classes", normalize(classes, dim=-1), persistent=False)
        self.norm = classes.norm(dim=-1).mean().item()
        self.blank = nn.Parameter(torch.zeros(classes.shape[1]))
        self.scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def encode(self, states: Tensor, frames: Tensor) -> list[Tensor]:
        """Return the embeddings (T, H) of each clip, from the states of all (frames of all, width)."""
        ends = nn.functional.pad(frames.cumsum(0), (1, 0)).to(torch.int32)
        for layer in self.layers:
            states = layer(states, cu_seqlens=ends, max_seqlen=int(frames.max()))[0]
        pooled = [clip[: len(clip) // 2 * 2].unflatten(0, (-1, 2)).mean(1) for clip in states.split(frames.tolist())]
        embeddings = self.proj(self.ln_post(torch.cat(pooled)))
        return list(embeddings.split([len(clip) for clip in pooled]))

    def classify(self, embeddings: Tensor) -> Tensor:
        """Return the logits (T, 1 + C) of embeddings (T, H); the blank comes first."""
        directions = torch.cat([normalize(self.blank, dim=-1)[None], self.classes])
        return self.scale * normalize(embeddings, dim=-1) @ directions.T

    def forward(self, states: Tensor, frames: Tensor, labels: Tensor, label_lengths: Tensor) -> dict[str, Tensor]:
        """Return the loss: CTC, and the squared relative error of the embeddings' norms.

        Args:
            labels: (tokens of all clips,) classes from 1.
        """
        clips = self.encode(states, frames)
        lengths = torch.tensor([len(clip) for clip in clips])
        log_probs = pad_sequence([self.classify(clip).log_softmax(-1) for clip in clips])  # (T, clips, 1 + C)
        misread = ctc_loss(log_probs, labels, lengths, label_lengths, zero_infinity=True)
        norms = torch.cat(clips).norm(dim=-1) / self.norm
        return {"loss": misread + (norms - 1).square().mean()}

    @torch.no_grad()
    def read(self, states: Tensor, frames: Tensor) -> list[list[int]]:
        """Return the likeliest classes of each clip, repetitions and blanks removed."""
        best = [self.classify(clip).argmax(-1) for clip in self.encode(states, frames)]
        return [[int(c) for c in clip.unique_consecutive() if c] for clip in best]


class Classes:
    """Tokens of the training texts as classes from 1; the blank is 0."""

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        self.tokens = sorted({token for text in labels for token in text})
        self.of_token = {token: i + 1 for i, token in enumerate(self.tokens)}

    def collate(self, clips: Sequence[ClipStates]) -> dict[str, Tensor]:
        """Return the arguments of `Aligner.forward` for a batch."""
        return {
            "states": torch.cat([clip.states for clip in clips]),
            "frames": torch.tensor([len(clip.states) for clip in clips]),
            "labels": torch.tensor([self.of_token[int(token)] for clip in clips for token in clip.labels]),
            "label_lengths": torch.tensor([len(clip.labels) for clip in clips]),
        }


def train_aligner(
    aligner: Aligner, clips: StatesOnDisk, classes: Classes, arguments: TrainingArguments, identity: dict[str, Any]
) -> None:
    """Train the aligner; a killed run goes on from its last complete checkpoint.

    Args:
        identity: what the weights depend on.
    """
    begun = Path(arguments.output_dir).is_dir()
    trainer = Trainer(model=aligner, args=arguments, train_dataset=clips, data_collator=classes.collate)
    trainer.add_callback(CompleteCheckpointCallback(arguments, trainer.accelerator, identity))
    checkpoint = resolve_resume(begun, arguments.output_dir, identity)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def read_clips(
    aligner: Aligner, clips: StatesOnDisk, classes: Classes, tokenizer: PreTrainedTokenizerBase, batch: int = 32
) -> list[str]:
    """Return what the aligner reads in every clip, as text."""
    aligner.eval()
    device = aligner.blank.device
    texts = []
    for start in range(0, len(clips), batch):
        chosen = [clips[i].states for i in range(start, min(start + batch, len(clips)))]
        frames = torch.tensor([len(states) for states in chosen])
        for found in aligner.read(torch.cat(chosen).to(device), frames.to(device)):
            texts.append(tokenizer.decode([classes.tokens[c - 1] for c in found]))
    return texts
