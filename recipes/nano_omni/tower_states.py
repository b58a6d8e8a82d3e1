"""The states of clips after a tower's frozen layers, computed once and kept on disk as float16.

states.bin     (frames of all clips, width), 50 frames per second
clips.json     text, what is said, and frames of every clip
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset as Rows
from thinker import run_layers
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from data_builders.audio import decode_speech
from data_builders.storage.atomic import atomic_folder
from data_builders.storage.json_files import read_object
from trainer_ext.students.base import StudentEncoder

STATES, CLIPS = "states.bin", "clips.json"
REMEDY = "delete its folder, and it is computed again"
CLIPS_AT_A_TIME = 16


class ClipStates(NamedTuple):
    """One clip: its states (frames, width) float32, the token ids of its text, the letters of what is said."""

    states: Tensor
    tokens: list[int]
    letters: str


class StatesOnDisk(Dataset[ClipStates]):
    """The states of a data set's clips, read as they are asked for."""

    def __init__(self, folder: Path, width: int, encoder: StudentEncoder) -> None:
        clips = read_object(folder / CLIPS, REMEDY, texts=list, spoken=list, frames=list)
        self.texts: list[str] = clips["texts"]
        self.frames: list[int] = clips["frames"]
        self.ends = np.cumsum(self.frames)
        self.tokens = [encoder.encode_response(text)[:-1] for text in self.texts]
        self.letters = [keep_letters(text) for text in clips["spoken"]]
        self.file, self.width = folder / STATES, width

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> ClipStates:
        count, start = self.frames[index] * self.width, (self.ends[index] - self.frames[index]) * self.width
        # Not a memory map, whose pages are counted as the process's memory.
        states = np.fromfile(self.file, np.float16, count, offset=int(start) * np.dtype(np.float16).itemsize)
        states = torch.from_numpy(states.reshape(-1, self.width)).float()
        return ClipStates(states, self.tokens[index], self.letters[index])


@torch.no_grad()
def write_states(model: PreTrainedModel, layers: int, encoder: StudentEncoder, rows: Rows, folder: Path) -> None:
    """Compute and write the states of every row's clip after the first layers of the model's tower."""
    frames: list[int] = []
    with atomic_folder(folder) as partial, (partial / STATES).open("wb") as file:
        for start in tqdm(range(0, len(rows), CLIPS_AT_A_TIME), desc="frozen layers", mininterval=5):
            batch = rows[start : start + CLIPS_AT_A_TIME]
            clips = [decode_speech(cell, row_id) for cell, row_id in zip(batch["speech"], batch["id"], strict=True)]
            states, counts = run_layers(model, layers, encoder.extract_features(clips))
            file.write(states.half().cpu().numpy().tobytes())
            frames += counts
        texts, spoken = list(rows["question"]), list(rows["spoken_text"])
        (partial / CLIPS).write_text(json.dumps({"texts": texts, "spoken": spoken, "frames": frames}))


def keep_letters(text: str) -> str:
    """Return a text's letters in lower case with single spaces and apostrophes between them."""
    return " ".join("".join(c if c.isalpha() or c == "'" else " " for c in text.lower()).split())
