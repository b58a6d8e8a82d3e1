"""Spoken answers of a full model against its written ones: tuned Omni models are known to garble their voice.

The talker speaks what the thinker writes; the word error rate of the speech against the writing, before and after an
adapter, says whether it still does.
"""

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from accelerate import PartialState
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.audio import resample_speech
from data_builders.storage.atomic import write_atomic
from data_builders.storage.call_cache import content_key
from data_builders.storage.json_files import read_json
from trainer_ext.evaluation.clip_errors import FreeRecognizer, count_errors, estimate_errors
from trainer_ext.evaluation.generation import move_inputs, pad_prompts
from trainer_ext.evaluation.items import Item
from trainer_ext.evaluation.sources.student import LoadSettings, fingerprint_adapter
from trainer_ext.evaluation.summary import round_estimate
from trainer_ext.loading.adapter import load_adapter
from trainer_ext.students.base import SpeakingFamily
from trainer_ext.students.registry import load_student_family

UNTOUCHED = "base"
COUNTS = "word_errors.json"


class TokenCollector(BaseStreamer):
    """Keeps the tokens that a model generates, without those of its prompt."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if not self._is_prompt:
            self.ids += value.flatten().tolist()
        self._is_prompt = False

    def end(self) -> None:
        """Keep everything."""


def measure_spoken_answers(
    settings: LoadSettings,
    adapters: Sequence[tuple[str, str]],
    items: Sequence[Item],
    recognizer: FreeRecognizer,
    max_new_tokens: int,
    folder: Path,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the word error rate of spoken against written answers, untouched and with each adapter.

    Args:
        adapters: label and path or id of each.
        items: questions in writing.
        folder: the spoken answers are kept there as WAV files.

    Raises:
        ValueError: the model has no spoken output.
    """
    family = load_student_family(settings.name_or_path, settings.revision)
    if not isinstance(family, SpeakingFamily):
        raise ValueError(f"{settings.name_or_path} cannot speak: its family has text output alone")
    lines = []
    for label, adapter in [(UNTOUCHED, None), *adapters]:
        fingerprints = [fingerprint_model(settings.name_or_path, settings.revision)]
        fingerprints += [] if adapter is None else [fingerprint_adapter(adapter, "main")]
        asked = [[item.question, item.system] for item in items]
        key = content_key("spoken 1", fingerprints, recognizer.name, recognizer.model, max_new_tokens, asked)[:10]
        place = folder / "spoken" / f"{label.replace('/', '_')}-{key}"
        if not (place / COUNTS).exists():
            place.mkdir(parents=True, exist_ok=True)
            counts = speak_all(family, settings, adapter, items, recognizer, max_new_tokens, place)
            write_atomic(place / COUNTS, json.dumps(counts).encode())
        counts = read_json(place / COUNTS, f"delete {place}, and it is measured again")
        lines.append({"model": label, **round_estimate(estimate_errors(counts, seed))})
    return lines


def speak_all(
    family: SpeakingFamily,
    settings: LoadSettings,
    adapter: str | None,
    items: Sequence[Item],
    recognizer: FreeRecognizer,
    max_new_tokens: int,
    place: Path,
) -> list[tuple[str, int, int]]:
    """Return question, wrong words and words of every spoken answer; the model is loaded and freed."""
    model = family.load_speaking_model(
        settings.name_or_path,
        revision=settings.revision,
        dtype=settings.dtype,
        device_map={"": PartialState().device},
    )
    if adapter is not None:
        family.set_student(model, load_adapter(family.get_student(model), adapter))
    counts = []
    for item in items:
        written, samples = speak(family, model.eval(), item, max_new_tokens)
        if not written or not len(samples):
            continue
        soundfile.write(place / f"{item.id.replace('/', '_')}.wav", samples, family.spoken_rate_hz)
        heard = recognizer.transcribe([resample_speech(samples, family.spoken_rate_hz)])
        counts += [(item.question_id, *pair) for pair in count_errors(heard, [written])]
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return counts


def speak(family: SpeakingFamily, model: PreTrainedModel, item: Item, max_new_tokens: int) -> tuple[str, Any]:
    """Return the written and the spoken answer to a written question, (samples,) at the family's rate."""
    prompt = family.encode_text_prompt(item.question, item.system or family.speaking_system)
    inputs = move_inputs(pad_prompts(family, [prompt], []), model)
    tokens = TokenCollector()
    samples = family.speak(model, inputs, max_new_tokens, tokens)
    return family.tokenizer.decode(tokens.ids, skip_special_tokens=True).strip(), samples
