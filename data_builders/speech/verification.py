"""Verification of clips: an independent recognizer transcribes each one, and its sound is measured.

In: clips and their texts. Out: transcript, word error rate, similarity, measures, and a rejection where one is due. A
new recognizer is one file in `asr/` and one line in `RECOGNIZERS`.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from data_builders.arguments import VerificationArguments
from data_builders.outcomes import Rejected
from data_builders.pretrained import WEIGHTS_ONLY
from data_builders.registry import load_class
from data_builders.speech.measures import measure_audio
from data_builders.storage.call_cache import content_key

RECOGNIZERS = {
    "pocketsphinx": "data_builders.speech.asr.pocketsphinx:PocketsphinxRecognizer",
    "whisper": "data_builders.speech.asr.whisper:WhisperRecognizer",
}
STAGE = "verification"
NO_RECOGNIZER = "none"
MAX_CLIPPED_SHARE = 0.01
MAX_PAUSE_SECONDS = 2.0
MIN_LOUDNESS = 1e-3  # of the loudest frame, root mean square
LETTERS_PER_SECOND = (4.0, 30.0)  # people: 10 to 20
# A clip that fits another question by this much better belongs to it. A limit on the word error rate alone misses
# swapped clips of questions that differ by a word.
OTHER_MARGIN = 0.1


class Recognizer(Protocol):
    """A speech recognizer."""

    name: str
    # How many sentences it chooses among; None for one that transcribes freely.
    set_size: ClassVar[int | None]
    # Whatever its model; one of several languages may still load a model of English alone.
    english_only: ClassVar[bool]

    @classmethod
    def from_arguments(cls, arguments: VerificationArguments, language: str) -> "Recognizer":
        """Load the model.

        Raises:
            ValueError: it does not know the language, two letters.
        """
        ...

    def transcribe(self, clips: list[np.ndarray], allowed_sentences: list[str]) -> list[str]:
        """Return a transcript of each clip (n,) at 16 kHz; equal calls give equal transcripts."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@dataclass
class SpeechCheck:
    """The measurements of one clip."""

    transcript: str
    wer: float
    similarity: float | None
    # Against the sentence of the set, its own apart, that the transcript fits best.
    nearest_other_wer: float | None
    seconds: float
    loudness: float  # root mean square of the loudest frame
    clipped_share: float
    longest_pause_seconds: float
    letters_per_second: float

    def pack(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, value: bytes) -> "SpeechCheck":
        return cls(**json.loads(value))

    def reject(self, max_wer: float, min_similarity: float) -> Rejected | None:
        """Return the first rejection that is due; None for a clip to keep."""
        slow, fast = LETTERS_PER_SECOND
        other = self.nearest_other_wer
        tests = {
            "silent": (self.loudness < MIN_LOUDNESS, self.loudness),
            "clipped": (self.clipped_share > MAX_CLIPPED_SHARE, self.clipped_share),
            "long_pause": (
                self.longest_pause_seconds > MAX_PAUSE_SECONDS,
                self.longest_pause_seconds,
            ),
            "speaking_rate": (
                not slow <= self.letters_per_second <= fast,
                self.letters_per_second,
            ),
            "word_error_rate": (self.wer > max_wer, self.wer),
            "sounds_like_another_question": (
                other is not None and other < self.wer - OTHER_MARGIN,
                other,
            ),
            "similarity": (
                self.similarity is not None and self.similarity < min_similarity,
                self.similarity,
            ),
        }
        due = ((code, value) for code, (rejected, value) in tests.items() if rejected)
        return next((Rejected(STAGE, code, f"{value:.3g}") for code, value in due), None)


def find_recognizer(arguments: VerificationArguments) -> type[Recognizer]:
    """Return the class of the chosen recognizer; `from_arguments` loads its model.

    Raises:
        ValueError: `recognizer` is not registered.
    """
    return load_class(RECOGNIZERS, arguments.recognizer, "recognizer")


def check_key(arguments: VerificationArguments, clip_key: str, sentences: list[str], language: str = "en") -> str:
    """Return the cache key: everything a check depends on. Thresholds are not part of it."""
    # Checks by the bigram models of earlier versions are none by a grammar.
    model = arguments.recognizer_model if arguments.recognizer == "whisper" else "grammar"
    other = [] if language == "en" else [language]
    return content_key("check", arguments.recognizer, model, arguments.similarity_model, clip_key, sentences, *other)


class SpeechVerifier:
    """A recognizer, and a sentence-embedding model where one is given."""

    def __init__(self, arguments: VerificationArguments, language: str = "en") -> None:
        from data_builders.speech.wer import compare_words, load_normalizer

        self._normalize, self._compare_words = load_normalizer(language), compare_words
        self.recognizer = find_recognizer(arguments).from_arguments(arguments, language)
        self._embedder: Any = None
        if arguments.similarity_model is not None:
            from sentence_transformers import SentenceTransformer

            self._embedder = SentenceTransformer(
                arguments.similarity_model, trust_remote_code=False, model_kwargs=dict(WEIGHTS_ONLY)
            )

    def check(
        self,
        clips: list[np.ndarray],
        spoken_texts: list[str],
        questions: list[str],
        allowed_sentences: list[str],
    ) -> list[SpeechCheck]:
        """Return one check per clip (n,) at 16 kHz."""
        transcripts = self.recognizer.transcribe(clips, allowed_sentences)
        similarities = self._measure_similarity(transcripts, questions)
        allowed = {self._normalize(sentence) for sentence in allowed_sentences}
        checks = []
        for clip, transcript, text, similarity in zip(clips, transcripts, spoken_texts, similarities, strict=True):
            expected, actual = self._normalize(text), self._normalize(transcript)
            others = [self._compare_words(actual, other) for other in allowed - {expected}]
            wer = self._compare_words(actual, expected)
            measures = measure_audio(clip, text)
            nearest = min(others, default=None)
            checks.append(SpeechCheck(transcript, wer, similarity, nearest, **measures))
        return checks

    def _measure_similarity(self, transcripts: list[str], questions: list[str]) -> list[float | None]:
        """Return the cosine of the embeddings of transcript and question."""
        if self._embedder is None:
            return [None] * len(transcripts)
        a, b = (
            self._embedder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
            for texts in (transcripts, questions)
        )
        return [round(float(cosine), 4) for cosine in (a * b).sum(axis=1)]

    def close(self) -> None:
        self.recognizer.close()
