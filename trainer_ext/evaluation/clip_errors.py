"""Word error rates of recordings: how much of a question an independent recognizer understands under a condition."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_builders.arguments import VerificationArguments
from data_builders.audio import decode_speech
from data_builders.registry import load_class
from data_builders.speech.verification import RECOGNIZERS, Recognizer
from data_builders.storage.atomic import write_atomic
from data_builders.storage.call_cache import content_key
from data_builders.storage.json_files import read_object
from trainer_ext.evaluation.benchmarks.base import LoadedBenchmark
from trainer_ext.evaluation.statistics import Estimate, Totals, estimate_score

CLIPS_AT_A_TIME = 64


class FreeRecognizer:
    """A recognizer of the data builder that transcribes freely; loaded when the first clip is transcribed.

    Raises:
        ValueError: it is not registered, or chooses among given sentences.
    """

    def __init__(self, name: str, model: str) -> None:
        self.name, self.model = name, model
        self._kind = load_class(RECOGNIZERS, name, "recognizer")
        if self._kind.set_size is not None:
            raise ValueError(
                f"recognizer: {name} chooses among given sentences; one that transcribes freely is whisper"
            )
        self._recognizer: Recognizer | None = None

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Return a transcript of each clip (n,) at 16 kHz."""
        if self._recognizer is None:
            arguments = VerificationArguments(recognizer=self.name, recognizer_model=self.model)
            self._recognizer = self._kind.from_arguments(arguments, "en")
        return self._recognizer.transcribe(list(clips), [])


def count_errors(transcripts: Sequence[str], expected: Sequence[str]) -> list[tuple[int, int]]:
    """Return the wrong words and the words of each expected text, both normalized as Whisper's are."""
    import jiwer

    from data_builders.speech.wer import load_normalizer

    normalize = load_normalizer()
    counts = []
    for transcript, text in zip(transcripts, expected, strict=True):
        wanted, heard = normalize(text), normalize(transcript)
        if wanted:
            found = jiwer.process_words(wanted, heard)
            counts.append((found.substitutions + found.deletions + found.insertions, len(wanted.split())))
        else:
            counts.append((len(heard.split()), 0))
    return counts


def measure_clips(loaded: LoadedBenchmark, recognizer: FreeRecognizer, folder: Path, seed: int) -> Estimate:
    """Return the word error rate of a benchmark's clips against its questions, in percent; kept in a file.

    Clips that cannot be read are left out.
    """
    asked = [(position, item) for position, item in enumerate(loaded.items) if item.question]
    key = content_key(
        "clips 1",
        recognizer.name,
        recognizer.model,
        [[item.id, item.question, loaded.clip_hashes[i]] for i, item in asked],
    )[:10]
    name = f"{loaded.benchmark.name}.{loaded.condition or 'plain'}".replace("/", "__").replace(" ", "_")
    file = folder / "clip_errors" / f"{name}.{key}.json"
    if not file.exists():
        counts: dict[str, tuple[int, int]] = {}
        for start in range(0, len(asked), CLIPS_AT_A_TIME):
            batch = asked[start : start + CLIPS_AT_A_TIME]
            readable = []
            for position, item in batch:
                clip = loaded.read_clip(position)
                try:
                    readable.append((item, decode_speech(clip, item.id)))
                except ValueError:
                    continue
            transcripts = recognizer.transcribe([samples for _, samples in readable]) if readable else []
            found = count_errors(transcripts, [item.question for item, _ in readable])
            counts |= {item.id: pair for (item, _), pair in zip(readable, found, strict=True)}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(counts).encode())
    counts = read_object(file, "delete it, and it is measured again")
    return estimate_errors([(item.question_id, *counts[item.id]) for _, item in asked if item.id in counts], seed)


def estimate_errors(counts: Sequence[tuple[str, int, int]], seed: int) -> Estimate:
    """Return a word error rate in percent of question, wrong words, words; recordings of a question together."""
    return estimate_score(Totals.from_counts(counts), seed=seed)
