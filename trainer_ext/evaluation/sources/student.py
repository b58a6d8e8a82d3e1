"""A speech LLM in memory, with an adapter or without one; sources of one base model share its weights."""

import gc
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file, extract_commit_hash

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.audio import count_samples
from data_builders.hub.ids import split_revision
from data_builders.outcomes import TemporaryFailure
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.atomic import hash_file
from trainer_ext.arguments import ModelArguments
from trainer_ext.evaluation.generation import cut_batches, generate_greedily, pad_prompts
from trainer_ext.evaluation.items import MODALITIES, REFUSED, Answer
from trainer_ext.evaluation.sources.base import Asked
from trainer_ext.loading.adapter import load_adapter
from trainer_ext.loading.adapter_files import ADAPTER_CONFIG
from trainer_ext.loading.student import load_student
from trainer_ext.students.base import StudentFamily
from trainer_ext.students.distill_forward import install_distill_forward
from trainer_ext.students.encode_row import decode_clip, encode_row
from trainer_ext.students.registry import load_student_family


class LoadSettings(NamedTuple):
    """The checkpoint of a student, and the precision of its weights."""

    name_or_path: str
    revision: str = "main"
    dtype: str = "auto"
    load_in_4bit: bool = False


class SharedStudent:
    """The weights of one base model, loaded once, and the adapter that is on them now."""

    def __init__(self, settings: LoadSettings) -> None:
        self.settings = settings
        self.family: StudentFamily = load_student_family(settings.name_or_path, settings.revision)
        self._model: PreTrainedModel | None = None
        self._adapter: tuple[str, str] | None = None

    def load(self, adapter: str | None, revision: str) -> PreTrainedModel:
        """Return the model with an adapter, in eval mode; None for the untouched model."""
        wanted = None if adapter is None else (adapter, revision)
        if self._model is None:
            self._model = self._load_base()
        if wanted != self._adapter:
            if isinstance(self._model, PeftModel):
                self._model = self._model.unload()
            if adapter is not None:
                self._model = load_adapter(self._model, adapter, revision)
            self._adapter = wanted
        return self._model.eval()

    def _load_base(self) -> PreTrainedModel:
        settings = self.settings
        arguments = ModelArguments(
            model_name_or_path=settings.name_or_path,
            model_revision=settings.revision,
            dtype=settings.dtype,
            load_in_4bit=settings.load_in_4bit,
            use_peft=settings.load_in_4bit,  # which a quantized model is refused without
            use_bnb_nested_quant=settings.load_in_4bit,
        )
        model = load_student(arguments, self.family)
        if not settings.load_in_4bit:
            model = model.to(PartialState().device)
        install_distill_forward(model, self.family.packed_inputs)  # gives hidden states; answers are as before
        return model

    def make_source(
        self, label: str, adapter: str | None = None, adapter_revision: str = "main", batch_size: int = 32
    ) -> "StudentSource":
        """Return the model with an adapter, or without one, as a source."""
        return StudentSource(
            label,
            self.family,
            lambda: self.load(adapter, adapter_revision),
            lambda: self.describe(adapter, adapter_revision),
            self,
            batch_size,
        )

    def describe(self, adapter: str | None, adapter_revision: str) -> dict[str, Any]:
        """Return what answers depend on: names and contents of model and adapter, precision."""
        settings = self.settings
        return {
            "model": settings.name_or_path,
            "model_fingerprint": fingerprint_model(settings.name_or_path, settings.revision),
            "adapter": adapter,
            "adapter_fingerprint": adapter and fingerprint_adapter(adapter, adapter_revision),
            "dtype": settings.dtype,
            "load_in_4bit": settings.load_in_4bit,
        }

    def free(self) -> None:
        """Free the weights."""
        self._model, self._adapter = None, None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class StudentSource:
    """A student that is asked in writing, in speech, and in writing about a clip.

    Args:
        load: returns the model to ask, in eval mode; called when the first answer is asked for.
        describe: returns what the answers depend on.
        weights: frees them by its `free`; None for weights that somebody else needs too.
        batch_size: questions at a time; fewer of long ones.
    """

    modalities = tuple(MODALITIES)
    refuses_for_good = True

    def __init__(
        self,
        label: str,
        family: StudentFamily,
        load: Callable[[], PreTrainedModel],
        describe: Callable[[], dict[str, Any]],
        weights: SharedStudent | None = None,
        batch_size: int = 32,
    ) -> None:
        self.label, self.family, self.load = label, family, load
        self.describe = cache(describe)
        self.weights: object = weights
        self.batch_size = batch_size

    def free(self) -> None:
        if isinstance(self.weights, SharedStudent):
            self.weights.free()

    def cut(self, asked: Sequence[Asked], modality: str) -> list[list[int]]:
        family, channel = self.family, MODALITIES[modality]
        lengths = [count_prompt_tokens(family, entry, channel) for entry in asked]
        return cut_batches(lengths, self.batch_size, family.vocab_size)

    def answer(self, asked: Sequence[Asked], modality: str, max_new_tokens: int) -> list[Answer | TemporaryFailure]:
        family, channel = self.family, MODALITIES[modality]
        model = self.load()
        answers: list[Answer | TemporaryFailure | None] = [None] * len(asked)
        prompts, clips, positions = [], [], []
        for i, entry in enumerate(asked):
            try:
                row = entry.to_row()
                clip = decode_clip(row, channel)
                check_clip(family, clip)
                prompts.append(encode_row(family, row, channel, 0 if clip is None else len(clip)))
            except ValueError as error:
                answers[i] = Answer("", REFUSED, detail=str(error))
                continue
            positions.append(i)
            if clip is not None:
                clips.append(clip)
        if prompts:
            start = time.perf_counter()
            found = generate_greedily(model, family, pad_prompts(family, prompts, clips), max_new_tokens)
            seconds = (time.perf_counter() - start) / len(prompts)
            for i, answer in zip(positions, found, strict=True):
                answers[i] = Answer(answer.text, answer.finish_reason, answer.tokens, round(seconds, 4))
        return [answer for answer in answers if answer is not None]


def check_clip(family: StudentFamily, clip: Any) -> None:
    """Raise ValueError for a clip that is too long for the model; it is never cut."""
    if clip is not None and len(clip) > family.max_speech_seconds * SPEECH_RATE_HZ:
        seconds = len(clip) / SPEECH_RATE_HZ
        raise ValueError(
            f"its clip is {seconds:.1f} s long, and the model takes {family.max_speech_seconds:g} s at most"
        )


def count_prompt_tokens(family: StudentFamily, entry: Asked, channel: str) -> int:
    """Return the tokens of a prompt by its clip's header; 0 for one that will be refused."""
    try:
        row = entry.to_row()
        samples = 0 if row["speech"] is None else count_samples(row["speech"], entry.item.id)
        return len(encode_row(family, row, channel, samples))
    except ValueError:
        return 0


def fingerprint_adapter(name_or_path: str, revision: str) -> str:
    """Return the hash of a folder's adapter, or the commit of a Hub's."""
    folder = Path(name_or_path)
    if folder.is_dir():
        return "".join(hash_file(folder / name)[:16] for name in (ADAPTER_CONFIG, SAFETENSORS_WEIGHTS_NAME))
    name, named = split_revision(name_or_path, revision)
    return str(extract_commit_hash(cached_file(name, ADAPTER_CONFIG, revision=named), None))
