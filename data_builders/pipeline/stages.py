"""The expensive stages of a build, one class each: answers, speech, augmentation, verification.

A stage turns a shard into calls with cache keys, and computes the missing ones. `run_stage` does the rest for all:
caches, progress, rejections, failures. Keys are contents, so a second run computes nothing, a changed voice misses
speech and verification alone, and a kill costs the calls in flight.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from data_builders.answers.base import (
    Answer,
    AnswerGenerator,
    Question,
    answer_key,
    length_batches,
    pack_answer,
)
from data_builders.arguments import SpeechArguments, VerificationArguments
from data_builders.audio import decode_speech, encode_speech
from data_builders.clients.concurrent import map_concurrent
from data_builders.outcomes import Rejected, TemporaryFailure
from data_builders.pipeline.caches import ShardCaches
from data_builders.questions.select import Selection
from data_builders.speech.augmentation import Augmenter
from data_builders.speech.recordings import Recording, plan_recordings
from data_builders.speech.synthesis import SpeechEngine, load_engine, synthesize_clip
from data_builders.speech.verification import SpeechVerifier, check_key, find_recognizer
from data_builders.storage.call_cache import CallCache

CLIPS_PER_CALL = 32

# A packed value, a rejection, a failure, or None where an earlier stage left nothing to work on.
CallResult = bytes | Rejected | TemporaryFailure | None


class Stage(Protocol):
    """One kind of expensive call."""

    name: str

    def calls(self, shard: str) -> dict[str, Any]:
        """Return the shard's calls by cache key, in their order."""
        ...

    def compute(self, shard: str, calls: dict[str, Any], missing: list[str]) -> Iterator[Mapping[str, CallResult]]:
        """Yield results by key, in groups that are stored together. Engines start with the first call."""
        ...

    def close(self) -> None:
        """Stop the engine."""
        ...


class ShardRecordings:
    """The recordings of a selection's shards."""

    def __init__(self, selection: Selection, speech: SpeechArguments, seed: int) -> None:
        self.selection, self.speech, self.seed = selection, speech, seed

    def all(self, shard: str) -> list[tuple[dict[str, Any], Recording]]:
        """Return every row's recordings, in their order; a row that is never spoken has one."""
        return [
            (row, recording)
            for row in self.selection.read(shard)
            for recording in plan_recordings(row, self.speech, self.seed)
        ]

    def spoken(self, shard: str) -> list[tuple[dict[str, Any], Recording]]:
        """Return the recordings with a clip."""
        return [(row, recording) for row, recording in self.all(shard) if recording.clip_key]


class AnswerStage:
    """The teacher's answer to every question.

    Args:
        teacher: fingerprint of the teacher, part of the keys.
        batch_size: questions that are answered together.
        load_generator: called only where an answer is missing.
    """

    name = "answers"

    def __init__(
        self,
        selection: Selection,
        teacher: str,
        max_new_tokens: int,
        batch_size: int,
        load_generator: Callable[[], AnswerGenerator],
    ) -> None:
        self.selection, self.teacher = selection, teacher
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.load_generator = load_generator
        self.generator: AnswerGenerator | None = None

    def key(self, row: dict[str, Any]) -> str:
        """Return the cache key of a row's answer."""
        question = Question(row["question"], row["system"])
        return answer_key(self.teacher, self.max_new_tokens, question)

    def calls(self, shard: str) -> dict[str, Question]:
        return {self.key(row): Question(row["question"], row["system"]) for row in self.selection.read(shard)}

    def compute(self, shard: str, calls: dict[str, Question], missing: list[str]) -> Iterator[dict[str, CallResult]]:
        key_of = {question: key for key, question in calls.items()}
        wanted = {calls[key] for key in missing}
        # Complete batches, also where a part is known: an answer may depend on the lengths in its batch.
        batches = length_batches(list(calls.values()), self.batch_size)
        batches = [batch for batch in batches if wanted.intersection(batch)]
        self.generator = self.generator or self.load_generator()
        for questions, outcomes in self.generator.generate(batches):
            yield {
                key_of[question]: pack_answer(outcome) if isinstance(outcome, Answer) else outcome
                for question, outcome in zip(questions, outcomes, strict=True)
            }

    def close(self) -> None:
        if self.generator is not None:
            self.generator.close()


class SpeechStage:
    """A clip of every recording."""

    name = "speech"

    def __init__(self, recordings: ShardRecordings) -> None:
        self.recordings = recordings
        self.engine: SpeechEngine | None = None

    def calls(self, shard: str) -> dict[str, tuple[str, str]]:
        """Return text and voice by key."""
        return {
            recording.clip_key: (row["spoken_text"], recording.voice)
            for row, recording in self.recordings.spoken(shard)
        }

    def compute(
        self, shard: str, calls: dict[str, tuple[str, str]], missing: list[str]
    ) -> Iterator[dict[str, CallResult]]:
        engine = self.engine = self.engine or load_engine(self.recordings.speech)

        def synthesize(key: str) -> bytes | Rejected:
            return synthesize_clip(engine, *calls[key])

        for key, result in map_concurrent(synthesize, missing, engine.in_flight):
            assert not isinstance(result, ValueError)  # `synthesize_clip` returns refusals
            yield {key: result}

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


class AugmentationStage:
    """An augmented copy of every clip."""

    name = "augmentation"

    def __init__(self, recordings: ShardRecordings, caches: ShardCaches) -> None:
        self.recordings, self.caches = recordings, caches
        speech = recordings.speech
        self.augmenter = Augmenter(speech.augmentations, speech.noise_snr_db)

    def calls(self, shard: str) -> dict[str, Recording]:
        return {recording.augmented_key: recording for _, recording in self.recordings.spoken(shard)}

    def compute(self, shard: str, calls: dict[str, Recording], missing: list[str]) -> Iterator[dict[str, CallResult]]:
        with self.caches.open(SpeechStage.name, shard) as clips:
            for key in missing:
                clip = clips.get(calls[key].clip_key)
                if clip is None:
                    yield {key: None}
                    continue
                samples = decode_speech({"bytes": clip, "path": None}, calls[key].id)
                yield {key: encode_speech(self.augmenter.apply(samples, key))}

    def close(self) -> None:
        """Free nothing: effects are functions."""


class CheckCall(NamedTuple):
    """One clip to verify."""

    row: dict[str, Any]
    clip_key: str
    clip_stage: str  # the stage whose cache holds the clip
    sentences: tuple[str, ...]  # the recognizer's closed set; empty where it transcribes freely


class VerificationStage:
    """A check of every clip, clean and augmented."""

    name = "verification"

    def __init__(
        self,
        recordings: ShardRecordings,
        arguments: VerificationArguments,
        caches: ShardCaches,
        language: str = "en",
    ) -> None:
        self.recordings, self.arguments, self.caches, self.language = recordings, arguments, caches, language
        self.set_size = find_recognizer(arguments).set_size
        self.verifier: SpeechVerifier | None = None

    def calls(self, shard: str) -> dict[str, CheckCall]:
        spoken = self.recordings.spoken(shard)
        kinds = [(SpeechStage.name, [(row, r.clip_key) for row, r in spoken])]
        if self.recordings.speech.augmentations:
            kinds.append((AugmentationStage.name, [(row, r.augmented_key) for row, r in spoken]))
        calls = {}
        for clip_stage, clips in kinds:
            for sentences, group in recognizer_groups(clips, self.set_size):
                for row, key in group:
                    check = check_key(self.arguments, key, list(sentences), self.language)
                    calls[check] = CheckCall(row, key, clip_stage, sentences)
        return calls

    def check_keys(self, shard: str) -> dict[str, str]:
        """Return the key of each clip's check, by the clip's own key."""
        return {call.clip_key: key for key, call in self.calls(shard).items()}

    def compute(self, shard: str, calls: dict[str, CheckCall], missing: list[str]) -> Iterator[dict[str, CallResult]]:
        for (clip_stage, sentences), group in itertools.groupby(
            missing, key=lambda key: (calls[key].clip_stage, calls[key].sentences)
        ):
            keys = list(group)
            with self.caches.open(clip_stage, shard) as clips:
                for start in range(0, len(keys), CLIPS_PER_CALL):
                    yield self._verify(keys[start : start + CLIPS_PER_CALL], calls, sentences, clips)

    def _verify(
        self,
        keys: list[str],
        calls: dict[str, CheckCall],
        sentences: tuple[str, ...],
        clips: CallCache,
    ) -> dict[str, CallResult]:
        results: dict[str, CallResult] = dict.fromkeys(keys)
        found = {key: clip for key in keys if (clip := clips.get(calls[key].clip_key)) is not None}
        if not found:  # all were rejected before
            return results
        self.verifier = self.verifier or SpeechVerifier(self.arguments, self.language)
        rows = [calls[key].row for key in found]
        checks = self.verifier.check(
            [
                decode_speech({"bytes": clip, "path": None}, row["id"])
                for clip, row in zip(found.values(), rows, strict=True)
            ],
            [row["spoken_text"] for row in rows],
            [row["question"] for row in rows],
            list(sentences),
        )
        results.update({key: check.pack() for key, check in zip(found, checks, strict=True)})
        return results

    def close(self) -> None:
        if self.verifier is not None:
            self.verifier.close()


def recognizer_groups(
    clips: Iterable[tuple[dict[str, Any], str]], set_size: int | None
) -> Iterator[tuple[tuple[str, ...], list[tuple[dict[str, Any], str]]]]:
    """Divide (row, clip key) pairs by sets of `set_size` sentences; one group without a set where it is None."""
    clips = list(clips)
    sentences = list(dict.fromkeys(row["spoken_text"] for row, _ in clips))
    for start in range(0, len(sentences), set_size or max(len(sentences), 1)):
        allowed = tuple(sentences[start : start + set_size]) if set_size else ()
        members = set(allowed or sentences)
        yield allowed, [(row, key) for row, key in clips if row["spoken_text"] in members]
