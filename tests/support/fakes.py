"""One small third-party entry for every registry except the students', each with a broken variant."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from data_builders.answers.base import Answer
from data_builders.arguments import AnswerArguments, SpeechArguments, VerificationArguments
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings
from trainer_ext.evaluation.items import one_part

RATE_HZ = 8_000


class BeepEngine:
    """Speaks one tone per letter."""

    name = "beep"
    in_flight = 2

    @classmethod
    def from_arguments(cls, arguments: SpeechArguments) -> "BeepEngine":
        return cls()

    @staticmethod
    def check_voices(voices: list[str]) -> None:
        """Accept all voices."""

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        if not text.strip():
            raise ValueError("cannot speak an empty text")
        tones = [np.sin(np.arange(400) * (ord(letter) % 64) / 50) for letter in text + voice]
        return np.concatenate(tones).astype(np.float32) / 2, RATE_HZ

    def close(self) -> None:
        """Free nothing."""


class RandomEngine(BeepEngine):
    """Broken: equal calls give other samples."""

    def synthesize(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        samples, rate_hz = super().synthesize(text, voice)
        return samples * np.random.default_rng().random(dtype=np.float32), rate_hz


class LengthRecognizer:
    """Chooses the sentence whose length fits the clip best."""

    name = "length"
    set_size: ClassVar[int | None] = 4
    english_only: ClassVar[bool] = False

    @classmethod
    def from_arguments(cls, arguments: VerificationArguments, language: str) -> "LengthRecognizer":
        return cls()

    def transcribe(self, clips: list[np.ndarray], allowed_sentences: list[str]) -> list[str]:
        return [
            min(allowed_sentences, key=lambda sentence: abs(len(sentence) * 1000 - len(clip)), default="")
            for clip in clips
        ]

    def close(self) -> None:
        """Free nothing."""


class ForgetfulRecognizer(LengthRecognizer):
    """Broken: loses the last clip."""

    def transcribe(self, clips: list[np.ndarray], allowed_sentences: list[str]) -> list[str]:
        return super().transcribe(clips, allowed_sentences)[:-1]


class ParrotGenerator:
    """Answers with the question."""

    batched: ClassVar[bool] = False

    @classmethod
    def from_arguments(cls, arguments: AnswerArguments) -> "ParrotGenerator":
        return cls()

    def generate(self, batches) -> Iterator:
        for batch in batches:
            for question in batch:
                yield [question], [Answer(question.question, "stop")]

    def close(self) -> None:
        """Free nothing."""


class HastyGenerator(ParrotGenerator):
    """Broken: answers the first question of a batch alone."""

    def generate(self, batches) -> Iterator:
        for batch in batches:
            yield [batch[0]], [Answer(batch[0].question, "stop")]


def chi_squared(log_p: Tensor, log_q: Tensor, beta: float, q_times_grad: Tensor) -> Tensor:
    """Compute Pearson's chi-squared divergence, sum of (p - q)^2 / q."""
    ratio = torch.exp(log_p - log_q)
    q_times_grad.copy_((1 - ratio**2) * log_q.exp())
    return (log_q.exp() * (ratio - 1) ** 2).sum(dim=-1)


def careless_divergence(log_p: Tensor, log_q: Tensor, beta: float, q_times_grad: Tensor) -> Tensor:
    """Broken: the gradient of another divergence."""
    value = chi_squared(log_p, log_q, beta, q_times_grad)
    q_times_grad.copy_(-log_p.exp())
    return value


class FirstWord:
    """Gives a point for the reference's first word."""

    needs_reference: ClassVar[bool] = True
    needs_judge: ClassVar[bool] = False

    def __init__(self, settings: EvaluatorSettings) -> None:
        pass

    def missing(self) -> str | None:
        return None

    def evaluate(self, answered) -> list:
        return [one_part(e.answer.text.split()[:1] == e.item.reference.split()[:1]) for e in answered]


class PercentEvaluator(FirstWord):
    """Broken: a hundred points of one."""

    def evaluate(self, answered) -> list:
        return [one_part(100 * score.share) for score in super().evaluate(answered)]


class LossyEvaluator(FirstWord):
    """Broken: no score for an empty answer."""

    def evaluate(self, answered) -> list:
        return super().evaluate([entry for entry in answered if entry.answer.text])
