"""A text LLM in memory, which is asked in writing: the teacher, as the ceiling of a student's text score."""

import time
from collections.abc import Sequence
from typing import Any

from data_builders.answers.base import Answer as LocalAnswer
from data_builders.answers.base import Question
from data_builders.answers.fingerprint import fingerprint_model
from data_builders.answers.local_model import LocalModel
from data_builders.causal_lm import TeacherSettings
from data_builders.outcomes import TemporaryFailure
from trainer_ext.evaluation.generation import cut_batches
from trainer_ext.evaluation.items import Answer
from trainer_ext.evaluation.sources.base import Asked


class TextLLMSource:
    """A causal LM with its chat template."""

    modalities: tuple[str, ...] = ("text",)
    refuses_for_good = True

    def __init__(self, label: str, settings: TeacherSettings, batch_size: int = 16) -> None:
        self.label, self.settings, self.batch_size = label, settings, batch_size
        self.weights: object = self
        self._model: LocalModel | None = None
        self._description: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        if self._description is None:
            settings = self.settings
            self._description = {
                "model": settings.name_or_path,
                "model_fingerprint": fingerprint_model(settings.name_or_path, settings.revision),
                "adapter": None,
                "dtype": str(settings.dtype),
                "load_in_4bit": settings.load_in_4bit,
            }
        return self._description

    def cut(self, asked: Sequence[Asked], modality: str) -> list[list[int]]:
        return cut_batches([len(entry.item.question) for entry in asked], self.batch_size, 1)

    def answer(self, asked: Sequence[Asked], modality: str, max_new_tokens: int) -> list[Answer | TemporaryFailure]:
        if self._model is None:
            self._model = LocalModel(self.settings, max_new_tokens)
        self._model.max_new_tokens = max_new_tokens
        start = time.perf_counter()
        ((_, outcomes),) = self._model.generate([[Question(e.item.question, e.item.system) for e in asked]])
        seconds = round((time.perf_counter() - start) / len(asked), 4)
        answers: list[Answer | TemporaryFailure] = []
        for outcome in outcomes:
            assert isinstance(outcome, LocalAnswer)
            tokens = len(self._model.chat.encode_response(outcome.text))
            answers.append(Answer(outcome.text, outcome.finish_reason, tokens, seconds))
        return answers

    def free(self) -> None:
        """Free the weights."""
        self._model = None
