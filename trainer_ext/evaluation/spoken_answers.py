"""Spoken answers of a full model against its written ones: tuned Omni models are known to garble their voice.

The talker speaks what the thinker writes; the word error rate of the speech against the writing, before and after an
adapter, says whether it still does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from accelerate import PartialState
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from data_builders.audio import resample_speech
from trainer_ext.evaluation.clip_errors import FreeRecognizer, count_errors, estimate_errors
from trainer_ext.evaluation.generation import move_inputs, pad_prompts
from trainer_ext.evaluation.items import Item
from trainer_ext.evaluation.sources.student import LoadSettings
from trainer_ext.evaluation.summary import round_estimate
from trainer_ext.loading.adapter import load_adapter
from trainer_ext.students.base import SpeakingFamily
from trainer_ext.students.registry import load_student_family

UNTOUCHED = "base"


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
            place = folder / "spoken" / label
            place.mkdir(parents=True, exist_ok=True)
            soundfile.write(place / f"{item.id.replace('/', '_')}.wav", samples, family.spoken_rate_hz)
            heard = recognizer.transcribe([resample_speech(samples, family.spoken_rate_hz)])
            counts += [(item.question_id, *pair) for pair in count_errors(heard, [written])]
        lines.append({"model": label, **round_estimate(estimate_errors(counts, seed))})
        del model
    return lines


def speak(family: SpeakingFamily, model: PreTrainedModel, item: Item, max_new_tokens: int) -> tuple[str, Any]:
    """Return the written and the spoken answer to a written question, (samples,) at the family's rate."""
    prompt = family.encode_text_prompt(item.question, item.system or family.speaking_system)
    inputs = move_inputs(pad_prompts(family, [prompt], []), model)
    tokens = TokenCollector()
    samples = family.speak(model, inputs, max_new_tokens, tokens)
    return family.tokenizer.decode(tokens.ids, skip_special_tokens=True).strip(), samples
