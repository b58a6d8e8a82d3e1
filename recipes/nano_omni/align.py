"""Train a tower's new layers and its projector by CTC, on letters and on the language model's token embeddings.

    states of the frozen layers -> first new layer -> letters                                50 frames per second
                                -> other new layers -> pooling by two -> ln_post -> proj     (T, H), 25 per second
                                -> cosine with the embedding of every token and with a blank -> tokens

A spoken word then looks to the language model as its written tokens do. Letters are few and in every clip, so the first
layer learns them from hours of speech, also for words and speakers that it has not heard; most tokens are in few clips.
(Hierarchical CTC: Sanabria and Metze, arXiv 1807.07104.) The language model does not run, which makes this cheap.
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
CLIPS_AT_A_TIME = 32


class Classes:
    """Tokens or letters as the classes of a CTC, numbered from 1; the blank is 0."""

    def __init__(self, labels: Sequence[Sequence[Any]]) -> None:
        self.names = sorted({name for text in labels for name in text})
        self._number = {name: i + 1 for i, name in enumerate(self.names)}

    def encode(self, labels: Sequence[Any]) -> list[int]:
        """Return the numbers of a text's tokens or letters; unknown ones are left out."""
        return [self._number[name] for name in labels if name in self._number]

    def decode(self, frames: Tensor) -> list[Any]:
        """Return what the likeliest class of each frame says, repetitions and blanks removed."""
        return [self.names[int(c) - 1] for c in frames.unique_consecutive() if c]


class Aligner(nn.Module):
    """The trained part of a tower, and the two CTCs.

    Args:
        tower: the audio tower; its layers from `frozen_layers` on, its norm and its projector are trained.
        embeddings: (C, H), of the tokens that the training texts use.
        letters: their number.
    """

    def __init__(self, tower: nn.Module, frozen_layers: int, embeddings: Tensor, letters: int) -> None:
        super().__init__()
        self.layers = tower.layers[frozen_layers:]
        self.ln_post, self.proj = tower.ln_post, tower.proj
        self.letters = nn.Sequential(nn.LayerNorm(tower.config.d_model), nn.Linear(tower.config.d_model, 1 + letters))
        self.register_buffer("embeddings", normalize(embeddings, dim=-1), persistent=False)
        self.norm = embeddings.norm(dim=-1).mean().item()
        self.blank = nn.Parameter(torch.zeros(embeddings.shape[1]))
        self.scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def run_layers(self, states: Tensor, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the states after the first new layer, (frames of all, width), and each clip's embeddings (T, H)."""
        ends = nn.functional.pad(frames.cumsum(0), (1, 0)).to(torch.int32)
        first = states
        for number, layer in enumerate(self.layers):
            states = layer(states, cu_seqlens=ends, max_seqlen=int(frames.max()))[0]
            first = states if number == 0 else first
        pooled = [clip[: len(clip) // 2 * 2].unflatten(0, (-1, 2)).mean(1) for clip in states.split(frames.tolist())]
        embeddings = self.proj(self.ln_post(torch.cat(pooled)))
        return first, list(embeddings.split([len(clip) for clip in pooled]))

    def classify(self, embeddings: Tensor) -> Tensor:
        """Return the logits (T, 1 + C) of embeddings (T, H); the blank comes first."""
        directions = torch.cat([normalize(self.blank, dim=-1)[None], self.embeddings])
        return self.scale * normalize(embeddings, dim=-1) @ directions.T

    def forward(
        self, states: Tensor, frames: Tensor, tokens: Tensor, token_lengths: Tensor, letters: Tensor,
        letter_lengths: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the loss: both CTCs, and the squared relative error of the embeddings' norms.

        Args:
            states: (frames of all clips, width).
            tokens: (tokens of all clips,), classes; letters likewise.
        """
        first, clips = self.run_layers(states, frames)
        misspelled = clip_losses(list(self.letters(first).split(frames.tolist())), letters, letter_lengths)
        misread = clip_losses([self.classify(clip) for clip in clips], tokens, token_lengths)
        norms = torch.cat(clips).norm(dim=-1) / self.norm
        return {"loss": misspelled + misread + (norms - 1).square().mean()}

    @torch.no_grad()
    def read(self, states: Tensor, frames: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the likeliest token and the likeliest letter of every frame of each clip."""
        first, clips = self.run_layers(states, frames)
        spelled = self.letters(first).argmax(-1).split(frames.tolist())
        return [self.classify(clip).argmax(-1) for clip in clips], list(spelled)


def clip_losses(logits: list[Tensor], labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Return the mean CTC loss per label of clips with logits (T, 1 + C) each."""
    log_probs = pad_sequence([clip.log_softmax(-1) for clip in logits])  # (T, clips, 1 + C)
    lengths = torch.tensor([len(clip) for clip in logits])
    return ctc_loss(log_probs, labels, lengths, label_lengths, zero_infinity=True)


class AlignCollator:
    """Makes the arguments of `Aligner.forward` from clips.

    Attributes:
        tokens, letters: the classes.
    """

    def __init__(self, clips: StatesOnDisk) -> None:
        self.tokens, self.letters = Classes(clips.tokens), Classes(clips.letters)

    def __call__(self, clips: Sequence[ClipStates]) -> dict[str, Tensor]:
        """Return the batch."""
        tokens = [self.tokens.encode(clip.tokens) for clip in clips]
        letters = [self.letters.encode(clip.letters) for clip in clips]
        return {
            **collate_states(clips),
            "tokens": torch.tensor([c for clip in tokens for c in clip]),
            "token_lengths": torch.tensor([len(clip) for clip in tokens]),
            "letters": torch.tensor([c for clip in letters for c in clip]),
            "letter_lengths": torch.tensor([len(clip) for clip in letters]),
        }


def collate_states(clips: Sequence[ClipStates]) -> dict[str, Tensor]:
    """Return states behind each other, and the frames of each clip."""
    return {
        "states": torch.cat([clip.states for clip in clips]),
        "frames": torch.tensor([len(clip.states) for clip in clips]),
    }


def train_aligner(
    aligner: Aligner,
    clips: StatesOnDisk,
    collator: AlignCollator,
    arguments: TrainingArguments,
    identity: dict[str, Any],
) -> None:
    """Train the aligner; a killed run goes on from its last complete checkpoint.

    Args:
        identity: what the weights depend on.
    """
    begun = Path(arguments.output_dir).is_dir()
    trainer = Trainer(model=aligner, args=arguments, train_dataset=clips, data_collator=collator)
    trainer.add_callback(CompleteCheckpointCallback(arguments, trainer.accelerator, identity))
    checkpoint = resolve_resume(begun, arguments.output_dir, identity)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def read_clips(
    aligner: Aligner, clips: Sequence[ClipStates], collator: AlignCollator, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[str]]:
    """Return what the aligner reads in every clip by tokens, and by letters."""
    aligner.eval()
    device = aligner.blank.device
    by_tokens, by_letters = [], []
    for start in range(0, len(clips), CLIPS_AT_A_TIME):
        chosen = [clips[i] for i in range(start, min(start + CLIPS_AT_A_TIME, len(clips)))]
        batch = {name: values.to(device) for name, values in collate_states(chosen).items()}
        read, spelled = aligner.read(**batch)
        by_tokens += [tokenizer.decode(collator.tokens.decode(clip)) for clip in read]
        by_letters += ["".join(collator.letters.decode(clip)) for clip in spelled]
    return by_tokens, by_letters
