"""A model behind an OpenAI-compatible server (vLLM and others), asked in writing or by audio in the user's turn."""

import base64
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile

from data_builders.answers.base import Question
from data_builders.answers.openai_server import OpenAIServer
from data_builders.chat import DEFAULT_SYSTEM
from data_builders.clients.concurrent import map_concurrent
from data_builders.clients.openai import map_request_errors
from data_builders.outcomes import TemporaryFailure
from data_builders.schema import SPEECH_RATE_HZ
from trainer_ext.evaluation.generation import cut_batches
from trainer_ext.evaluation.items import MODALITIES, REFUSED, Answer
from trainer_ext.evaluation.sources.base import Asked
from trainer_ext.students.encode_row import decode_clip
from trainer_ext.students.registry import find_student_family

BATCHES_IN_FLIGHT = 4  # so that the slowest answer of a batch keeps few others waiting


class ServerSource:
    """A server's model, decoding greedily.

    Args:
        model: its name at the server.
        in_flight: requests at a time.
        takes_audio: whether to ask it by `input_audio` parts too.
    """

    refuses_for_good = False  # it may be started with audio, or with a longer context, the next time

    def __init__(self, label: str, base_url: str, model: str, in_flight: int = 16, takes_audio: bool = True) -> None:
        self.label, self.base_url, self.model, self.in_flight = label, base_url, model, in_flight
        self.modalities: tuple[str, ...] = tuple(MODALITIES) if takes_audio else ("text",)
        self.weights: object = self
        self._server: OpenAIServer | None = None
        self._default_system = True  # of the served model, read when it is connected to

    def free(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None

    def describe(self) -> dict[str, Any]:
        return {"model": self.model, "model_fingerprint": f"{self.model} by a server", "adapter": None}

    def cut(self, asked: Sequence[Asked], modality: str) -> list[list[int]]:
        return cut_batches([len(entry.item.question) for entry in asked], BATCHES_IN_FLIGHT * self.in_flight, 1)

    def answer(self, asked: Sequence[Asked], modality: str, max_new_tokens: int) -> list[Answer | TemporaryFailure]:
        if self._server is None:
            self._server = OpenAIServer(self.base_url, self.model, "main", max_new_tokens, self.in_flight)
            self._default_system = has_default_system(self.model)
        self._server.max_new_tokens = max_new_tokens
        server, default_system = self._server, self._default_system

        def request(position: int) -> Answer:
            entry, start = asked[position], time.perf_counter()
            if modality == "text" and default_system:
                answered = server.request(Question(entry.item.question, entry.item.system))
            else:
                messages = make_messages(entry, modality, default_system)
                with map_request_errors(self.base_url):
                    answered = server.chat_once(messages)
            return Answer(answered.text, answered.finish_reason, None, round(time.perf_counter() - start, 4))

        answers: dict[int, Answer | TemporaryFailure] = {}
        for position, outcome in map_concurrent(request, range(len(asked)), self.in_flight):
            refused = isinstance(outcome, ValueError)
            answers[position] = Answer("", REFUSED, detail=str(outcome)) if refused else outcome  # type: ignore[assignment]
        return [answers[position] for position in range(len(asked))]


def has_default_system(model: str) -> bool:
    """Tell whether an empty system prompt is `DEFAULT_SYSTEM`; so it is for a model that only the server knows."""
    try:
        family, _ = find_student_family(model)
    except (OSError, ValueError):
        return True
    return family.has_default_system


def make_messages(entry: Asked, modality: str, default_system: bool) -> list[dict[str, Any]]:
    """Return a question as messages, as the model's family renders it.

    Args:
        default_system: False for Voxtral, whose servers refuse a system prompt beside a clip; it begins the turn.
    """
    parts: list[dict[str, Any]] = []
    clip = decode_clip(entry.to_row(), MODALITIES[modality])
    if clip is not None:
        parts.append({"type": "input_audio", "input_audio": {"data": encode_wav(clip), "format": "wav"}})
    if modality != "speech":
        parts.append({"type": "text", "text": entry.item.question})
    system = entry.item.system or (DEFAULT_SYSTEM if default_system else "")
    if system and clip is not None and not default_system:
        parts.insert(0, {"type": "text", "text": f"{system}\n\n"})
        system = ""
    turn = {"role": "user", "content": parts}
    return [{"role": "system", "content": system}, turn] if system else [turn]


def encode_wav(clip: np.ndarray) -> str:
    """Return a clip (n,) as the base64 text of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, clip, SPEECH_RATE_HZ, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()
