"""One question to a student, in writing or as a sound file: checked before anything is computed."""

import numpy as np
import torch

from data_builders.audio import open_sound, read_speech
from trainer_ext.evaluation.generation import pad_prompts
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.encode_row import encode_row


def read_clip(file: str, max_seconds: float, name: str | None = None) -> np.ndarray:
    """Return the samples (n,) at 16 kHz of a file; its header is read first.

    Args:
        name: in place of the file's, for messages.

    Raises:
        ValueError: the file does not exist, cannot be read, is empty, too long, or no sound.
    """
    name = name or file
    with open_sound(file, name) as sound:
        seconds = sound.frames / sound.samplerate
    if seconds > max_seconds:
        raise ValueError(
            f"{name} is {seconds:.1f} s long, and the model takes {max_seconds:g} s at most: ask by a shorter clip "
            "(it is never cut)"
        )
    return read_speech(file, name)


def encode_question(
    student: StudentEncoder, question: str | None, clip: np.ndarray | None, system: str = ""
) -> dict[str, torch.Tensor]:
    """Return the model's inputs for a written question, or for a spoken one if there is a clip (n,) at 16 kHz.

    Raises:
        ValueError: the clip is too short for one audio token.
    """
    row = {"question": question, "system": system}
    if clip is None:
        return pad_prompts(student, [encode_row(student, row, "t2t")], [])
    return pad_prompts(student, [encode_row(student, row, "s2t", len(clip))], [clip])
