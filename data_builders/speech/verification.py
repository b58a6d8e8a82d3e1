"""Does the clip say the question? An independent recognizer hears it, and its samples are looked at.

In: clips with what they should say. Out: what was heard, word error rate, similarity, and the sound's own figures. A
new recognizer is one file in `asr/` and one line here.
"""

import importlib
import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from data_builders.arguments import BuildArguments
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.call_cache import content_key

RECOGNIZERS = {
    "pocketsphinx": "data_builders.speech.asr.pocketsphinx:PocketsphinxRecognizer",
    "whisper": "data_builders.speech.asr.whisper:WhisperRecogniser",
}
FRAME = SPEECH_RATE_HZ // 50  # samples of 20 ms
QUIET = 10 ** (-45 / 20)  # below the loudest frame: nobody speaks there
FULL_SCALE = 0.999
MAX_CLIPPED_SHARE = 0.01
MAX_PAUSE_SECONDS = 2.0
MIN_LOUDNESS = 1e-3  # of the loudest frame, root mean square
LETTERS_A_SECOND = (4.0, 30.0)  # people: 10 to 20
# A clip that fits another question so much better belongs there: of swapped clips of questions that differ by a word, a
# limit on the word error rate alone found 57 %, this 98 %, and 5 % of the right ones fell to it.
OTHER_BY = 0.1


class Recognizer(Protocol):
    """What a recognizer offers."""

    name: str
    # How many sentences it wants to be told of; None for one that hears anything.
    set_size: ClassVar[int | None]

    @classmethod
    def from_arguments(cls, arguments: BuildArguments) -> "Recognizer": ...

    def hear(self, clips: list[np.ndarray], sentences: list[str]) -> list[str]:
        """What each clip (n,) at 16 kHz says; `sentences` is all that may be said. Equal calls give equal words."""
        ...

    def close(self) -> None: ...


@dataclass
class Check:
    """What is known of one clip."""

    heard: str
    wer: float
    similarity: float | None
    # Against the question of the set, its own apart, that it sounds like most.
    nearest_other_wer: float | None
    seconds: float
    loudness: float  # root mean square of the loudest frame
    clipped_share: float
    longest_pause_seconds: float
    letters_per_second: float

    def pack(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, value: bytes) -> "Check":
        return cls(**json.loads(value))

    def rejection_reason(self, arguments: BuildArguments) -> str | None:
        """Why the clip is not kept, or None."""
        if self.loudness < MIN_LOUDNESS:
            return "silent"
        if self.clipped_share > MAX_CLIPPED_SHARE:
            return "clipped"
        if self.longest_pause_seconds > MAX_PAUSE_SECONDS:
            return "long pause"
        if not LETTERS_A_SECOND[0] <= self.letters_per_second <= LETTERS_A_SECOND[1]:
            return "speaking rate"
        if self.wer > arguments.max_wer:
            return "word error rate"
        if self.nearest_other_wer is not None and self.nearest_other_wer < self.wer - OTHER_BY:
            return "sounds like another question"
        if self.similarity is not None and self.similarity < arguments.min_similarity:
            return "similarity"
        return None


def find_recognizer(arguments: BuildArguments) -> type[Recognizer]:
    """The class of the recognizer that the arguments name; its model is loaded by `from_arguments`.

    Raises:
        ValueError: there is none of that name.
    """
    name = arguments.recognizer
    if name not in RECOGNIZERS:
        raise ValueError(
            f"unknown recognizer {name!r}; known are {', '.join(RECOGNIZERS)}, and none"
        )
    module, _, attribute = RECOGNIZERS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_check_key(arguments: BuildArguments, clip_key: str, sentences: list[str]) -> str:
    """Everything that a check depends on; thresholds do not count, so that another one costs nothing."""
    model = arguments.recognizer_model if arguments.recognizer == "whisper" else ""
    return content_key(
        "check", arguments.recognizer, model, arguments.similarity_model, clip_key, sentences
    )


class SpeechVerifier:
    """A recognizer, and a model of similarity where one is given."""

    def __init__(self, arguments: BuildArguments) -> None:
        from data_builders.speech.wer import compare_words, load_normalizer

        self._normalize, self._compare_words = load_normalizer(), compare_words
        self.recognizer = find_recognizer(arguments).from_arguments(arguments)
        self._similarity: Any = None
        if arguments.similarity_model is not None:
            from sentence_transformers import SentenceTransformer

            self._similarity = SentenceTransformer(arguments.similarity_model)

    def check(
        self, clips: list[np.ndarray], spoken: list[str], questions: list[str], sentences: list[str]
    ) -> list[Check]:
        """One check a clip (n,) at 16 kHz, against how it should be spoken and what was asked."""
        heard = self.recognizer.hear(clips, sentences)
        similar = self._measure_similarity(heard, questions)
        said_by_any = {self._normalize(sentence) for sentence in sentences}
        checks = []
        for clip, words, text, alike in zip(clips, heard, spoken, similar, strict=True):
            said, told = self._normalize(text), self._normalize(words)
            others = [self._compare_words(told, other) for other in said_by_any - {said}]
            wer = self._compare_words(told, said)
            checks.append(Check(words, wer, alike, min(others, default=None), **listen(clip, text)))
        return checks

    def _measure_similarity(self, heard: list[str], questions: list[str]) -> list[float | None]:
        """Cosine of the embeddings of what was heard and what was asked."""
        if self._similarity is None:
            return [None] * len(heard)
        one, other = (
            self._similarity.encode(texts, normalize_embeddings=True, show_progress_bar=False)
            for texts in (heard, questions)
        )
        return [round(float(cosine), 4) for cosine in (one * other).sum(axis=1)]

    def close(self) -> None:
        self.recognizer.close()


def listen(clip: np.ndarray, text: str) -> dict[str, float]:
    """The sound's own figures, of samples (n,) at 16 kHz that should say `text`."""
    frames = clip[: len(clip) // FRAME * FRAME].reshape(-1, FRAME)
    loudness = (
        np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1)) if len(frames) else np.zeros(1)
    )
    voiced = loudness > max(QUIET * loudness.max(), 1e-6)
    seconds = len(clip) / SPEECH_RATE_HZ
    return {
        "seconds": round(seconds, 4),
        "loudness": round(float(loudness.max()), 6),
        "clipped_share": round(float((np.abs(clip) >= FULL_SCALE).mean()), 6) if len(clip) else 0.0,
        "longest_pause_seconds": round(longest_run(~voiced) * FRAME / SPEECH_RATE_HZ, 3),
        "letters_per_second": round(
            len(text) / max(voiced.sum() * FRAME / SPEECH_RATE_HZ, 0.02), 3
        ),
    }


def longest_run(flags: np.ndarray) -> int:
    """Length of the longest stretch of true flags (n,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0
