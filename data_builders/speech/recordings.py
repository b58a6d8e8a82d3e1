"""The recordings of one question: their number, voices and cache keys.

All of them are functions of the row, so that any number of machines makes the same data set.
"""

from typing import Any, NamedTuple

from data_builders.arguments import SpeechArguments
from data_builders.schema import make_row_id
from data_builders.speech.augmentation import augmentation_key
from data_builders.speech.synthesis import choose_voice, clip_key, engine_label


class Recording(NamedTuple):
    """One recording of a question. A question that is never spoken has one, without voice and keys."""

    id: str
    voice: str
    clip_key: str
    augmented_key: str


def recordings_per_split(speech: SpeechArguments) -> tuple[int, int]:
    """Return the recordings of a training question, and of any other question."""
    return speech.recordings_per_question, len(speech.test_voices)


def plan_recordings(row: dict[str, Any], speech: SpeechArguments, seed: int) -> list[Recording]:
    """Return the recordings of one selected question."""
    source, question = row["source"], row["question"]
    if "s2t" not in row["channels"]:
        return [Recording(make_row_id(source, question, row["system"]), "", "", "")]
    voices = speech.test_voices
    if row["split"] == "train":
        voices = [
            choose_voice(speech.train_voices, question, number) for number in range(speech.recordings_per_question)
        ]
    recordings = []
    for number, voice in enumerate(voices):
        row_id = make_row_id(source, question, row["system"], number)
        key = clip_key(engine_label(speech), row["spoken_text"], voice)
        effects, snr_db = speech.augmentations, speech.noise_snr_db
        augmented = augmentation_key(effects, snr_db, seed, key, row_id) if effects else ""
        recordings.append(Recording(row_id, voice, key, augmented))
    return recordings
