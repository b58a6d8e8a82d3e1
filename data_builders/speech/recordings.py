"""The recordings of one question: how many, in which voices, and under which keys their clips are journaled.

Voices, ids and noise are functions of the row, so that any number of machines makes the same data set.
"""

from typing import Any, NamedTuple

from data_builders.arguments import BuildArguments
from data_builders.schema import make_row_id
from data_builders.speech.augmentation import make_augmentation_key
from data_builders.speech.synthesis import choose_voice, engine_label, make_clip_key


class Recording(NamedTuple):
    """One recording; a question that is never spoken has one without voice and keys."""

    id: str
    voice: str
    clip_key: str
    noisy_key: str


def plan_recordings(row: dict[str, Any], arguments: BuildArguments) -> list[Recording]:
    """The takes of one planned question."""
    source, question = row["source"], row["question"]
    if "s2t" not in row["channels"]:
        return [Recording(make_row_id(source, question), "", "", "")]
    if row["split"] == "train":
        voices = [
            choose_voice(arguments.train_voices, question, take)
            for take in range(arguments.recordings_per_question)
        ]
    else:
        voices = arguments.test_voices
    takes = []
    for number, voice in enumerate(voices):
        row_id = make_row_id(source, question, number)
        clip_key = make_clip_key(engine_label(arguments), row["spoken"], voice)
        noisy_key = make_augmentation_key(arguments, clip_key, row_id) if arguments.noise else ""
        takes.append(Recording(row_id, voice, clip_key, noisy_key))
    return takes
