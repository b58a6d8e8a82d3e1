"""Two figures without a judge and without a right answer (SALAD, arXiv 2510.13632), in nats per response token.

    forgetting    KL( teacher on text || student on text )          of the text LLM that the student is made from
    misalignment  KL( student on text || student on speech )

Both softmaxes at temperature 1, over the tokens of the responses that the rows have.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from data_builders.schema import CHANNELS, PAIR_CHANNELS
from trainer_ext.loss.distillation import distillation_loss
from trainer_ext.loss.objective import Objective
from trainer_ext.loss.teacher_targets import LiveTargets
from trainer_ext.pair_batch import PairBatch

NAMES = ("forgetting", "misalignment")
PLAIN_KL = Objective(kl_weight=1.0, temperature=1.0, divergence="forward_kl")


class TokenPairs(NamedTuple):
    """The same response tokens in two channels, as indices into the N of a batch."""

    text: Tensor  # (P,)
    speech: Tensor  # (P,)


@torch.no_grad()
def token_kl(wanted: LiveTargets, hidden_states: Tensor, head: Tensor) -> Tensor:
    """Return KL(wanted || hidden_states) of N tokens, (N,)."""
    labels = torch.zeros(len(hidden_states), dtype=torch.long, device=hidden_states.device)  # for the CE, unused
    return distillation_loss(hidden_states, head, labels, wanted, PLAIN_KL).kl


def pair_channels(batch: PairBatch, rows: Tensor) -> TokenPairs:
    """Return the response tokens of the questions that the batch has in both channels.

    Args:
        rows: (N,), the student row of each response token.
    """
    counts = torch.bincount(rows, minlength=len(batch.labels))
    starts = (counts.cumsum(dim=0) - counts).tolist()
    places: dict[int, dict[str, int]] = {}
    for row, (channel, question) in enumerate(
        zip(batch.channel_index.tolist(), batch.question_index.tolist(), strict=True)
    ):
        if counts[row] > 0:
            places.setdefault(question, {})[CHANNELS[channel]] = row
    both = [place for place in places.values() if len(place) == len(PAIR_CHANNELS)]
    index = [
        [starts[place[channel]] + i for place in both for i in range(int(counts[place[channel]]))]
        for channel in PAIR_CHANNELS
    ]
    text, speech = (torch.tensor(positions, dtype=torch.long, device=rows.device) for positions in index)
    return TokenPairs(text, speech)


class JudgeFreeMeter:
    """Both divergences, question by question.

    Attributes:
        questions: sums and tokens of the questions so far, (questions, 4) in parts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.questions: list[Tensor] = []

    @torch.no_grad()
    def sum_by_question(
        self, batch: PairBatch, rows: Tensor, hidden_states: Tensor, head: Tensor, teacher: LiveTargets | None
    ) -> Tensor:
        """Return sum and tokens of each divergence for each of Q questions, (Q, 4).

        Args:
            hidden_states: (N, H), the student's.
            teacher: the teacher's targets of these N tokens; None leaves forgetting out.
        """
        shape = (len(batch.example_ids), 2 * len(NAMES))
        sums = torch.zeros(shape, dtype=torch.float64, device=self.device)
        pairs = pair_channels(batch, rows)
        if teacher is not None:
            text = (batch.channel_index[rows] == CHANNELS.index("t2t")).nonzero()[:, 0]
            wanted = replace(teacher, teacher_index=teacher.teacher_index[text])
            self._add(sums, 0, batch.question_index[rows[text]], token_kl(wanted, hidden_states[text], head))
        if len(pairs.text):
            index = torch.arange(len(pairs.text), device=rows.device)
            wanted = LiveTargets(index, hidden_states[pairs.text], None)
            kl = token_kl(wanted, hidden_states[pairs.speech], head)
            self._add(sums, 1, batch.question_index[rows[pairs.speech]], kl)
        return sums

    @staticmethod
    def _add(sums: Tensor, number: int, questions: Tensor, kl: Tensor) -> None:
        sums[:, 2 * number].index_add_(0, questions, kl.to(sums.dtype))
        sums[:, 2 * number + 1].index_add_(0, questions, torch.ones_like(kl, dtype=sums.dtype))

    def add(self, sums: Tensor) -> None:
        """Add the sums of questions, (Q, 4)."""
        self.questions.append(sums)

    def reset(self) -> None:
        """Start anew."""
        self.questions = []

    def read(self) -> dict[str, Tensor]:
        """Return sum and tokens of every question, (2, questions), for each divergence that has tokens."""
        return split_sums(torch.cat(self.questions).cpu()) if self.questions else {}


def split_sums(sums: Tensor) -> dict[str, Tensor]:
    """Return sum and tokens of each divergence that has tokens: (questions, 4) -> (2, questions) each."""
    found = {name: sums.T[2 * i : 2 * i + 2] for i, name in enumerate(NAMES)}
    return {name: pair for name, pair in found.items() if pair[1].any()}


def mean_divergences(sums: dict[str, Tensor]) -> dict[str, float]:
    """Return each divergence per response token."""
    return {name: (total.sum() / tokens.sum()).item() for name, (total, tokens) in sums.items()}
