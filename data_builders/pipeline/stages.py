"""answers -> speech -> checks, shard by shard: what is missing is made and journaled, and nothing else is touched.

Each shard and stage has a journal. Its keys are contents, so a second run finds everything done, a changed voice misses
speech and checks alone, and a kill costs the calls in flight. Engines start when something is missing.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data_builders.answers.base import (
    REFUSED,
    AnswerGenerator,
    Question,
    length_batches,
    make_answer_key,
    pack_answer,
)
from data_builders.arguments import BuildArguments
from data_builders.audio import decode_speech, encode_speech
from data_builders.clients.concurrent import TemporaryFailure, map_concurrent
from data_builders.questions.select import Plan
from data_builders.speech.augmentation import Noise
from data_builders.speech.recordings import Recording, plan_recordings
from data_builders.speech.synthesis import SPOKEN, SpeechEngine, load_engine, speak
from data_builders.speech.verification import SpeechVerifier, find_recognizer, make_check_key
from data_builders.storage.call_cache import CallCache

CLIPS_A_CALL = 32


class Failure(NamedTuple):
    """A call that failed every time it was tried; the row's result is not known yet."""

    shard: str
    stage: str
    row: str
    error: str


class Work:
    """What the stages share: arguments, plan, the shards that are ours, and who the teacher is.

    Args:
        teacher: identity of the teacher, part of the journal's keys; None where nobody answers.
        load_generator: called only where an answer is missing.
        quiet: no progress bars.
    """

    def __init__(
        self,
        arguments: BuildArguments,
        plan: Plan,
        shards: list[str],
        teacher: str | None,
        load_generator: Callable[[], AnswerGenerator],
        quiet: bool = False,
    ) -> None:
        self.arguments, self.plan, self.shards = arguments, plan, shards
        self.teacher, self.load_generator, self.quiet = teacher, load_generator, quiet
        self.failures: list[Failure] = []
        # Key of a call -> why it was refused; never journaled, since a server can be mended.
        self.refusals: dict[str, str] = {}

    def run(self) -> list[Failure]:
        """All stages of our shards; returns what failed."""
        if self.teacher is not None:
            answer_shards(self)
        speak_shards(self)
        if self.arguments.noise:
            add_noise_to_shards(self)
        if self.arguments.recognizer != "none":
            check_shards(self)
        return self.failures

    @property
    def recordings(self) -> tuple[str, ...]:
        """Kinds of clip that a take has, as their journals are named."""
        return ("speech", "noise") if self.arguments.noise else ("speech",)

    @property
    def answer_batch_size(self) -> int:
        """Questions that are answered together; a server gets them one by one."""
        return 1 if self.arguments.teacher_base_url else self.arguments.answer_batch_size

    def answer_key(self, row: dict[str, Any]) -> str:
        assert self.teacher is not None
        question = Question(row["question"], row["system"])
        return make_answer_key(self.teacher, self.arguments.answer_max_new_tokens, question)

    def takes(self, shard: str) -> list[tuple[dict[str, Any], Recording]]:
        """Every recording of a shard, in its order."""
        return [
            (row, take)
            for row in self.plan.read(shard)
            for take in plan_recordings(row, self.arguments)
        ]

    def spoken_recordings(self, shard: str) -> list[tuple[dict[str, Any], Recording]]:
        return [(row, take) for row, take in self.takes(shard) if take.clip_key]

    @contextmanager
    def journal(self, stage: str, shard: str) -> Iterator[CallCache]:
        journal = CallCache(Path(self.arguments.cache_dir) / "journal" / stage / f"{shard}.sqlite")
        try:
            yield journal
        finally:
            journal.close()

    def progress(self, name: str, total: int) -> tqdm:
        """A bar in calls; what was done before does not count towards its speed."""
        return tqdm(total=total, desc=name, unit="row", disable=self.quiet, smoothing=0.1)


def skip(progress: tqdm, count: int) -> None:
    """Move the bar over `count` rows that were done by an earlier run."""
    if not progress.disable:
        progress.initial += count
        progress.update(count)


def answer_shards(work: Work) -> None:
    """The teacher's answer to every question."""
    answerer: AnswerGenerator | None = None
    with work.progress(
        "answers", sum(work.plan.shards[shard] for shard in work.shards)
    ) as progress:
        for shard in work.shards:
            keys = {
                Question(row["question"], row["system"]): work.answer_key(row)
                for row in work.plan.read(shard)
            }
            with work.journal("answers", shard) as journal:
                missing = set(journal.adopt(keys.values()))
                skip(progress, work.plan.shards[shard] - len(missing))
                # Whole batches, also where a part is known: an answer may depend on its neighbors' lengths.
                batches = length_batches(list(keys), work.answer_batch_size)
                batches = [batch for batch in batches if any(keys[q] in missing for q in batch)]
                if not batches:
                    continue
                answerer = answerer or work.load_generator()
                for questions, answers in answerer.answer(batches):
                    if isinstance(answers, TemporaryFailure):
                        work.failures += [
                            Failure(shard, "answers", question.question, str(answers))
                            for question in questions
                        ]
                        continue
                    told = {keys[q]: answer for q, answer in zip(questions, answers, strict=True)}
                    refused = {k: a.text for k, a in told.items() if a.finish_reason == REFUSED}
                    work.refusals.update(refused)
                    journal.put_all(
                        {k: pack_answer(a) for k, a in told.items() if k not in refused}
                    )
                    progress.update(sum(keys[question] in missing for question in questions))


def speak_shards(work: Work) -> None:
    """A clip of every take."""
    engine: SpeechEngine | None = None
    with work.progress("speech", count_takes(work)) as progress:
        try:
            for shard in work.shards:
                utterances = {
                    take.clip_key: (row["spoken"], take.voice, take.id)
                    for row, take in work.spoken_recordings(shard)
                }
                with work.journal("speech", shard) as journal:
                    missing = journal.adopt(utterances)
                    skip(progress, len(utterances) - len(missing))
                    if not missing:
                        continue
                    engine = engine or load_engine(work.arguments)
                    for key, clip in speak_all(engine, {key: utterances[key] for key in missing}):
                        if isinstance(clip, bytes) and clip.startswith(SPOKEN):
                            journal.put(key, clip)
                        elif isinstance(clip, bytes):
                            work.refusals[key] = clip.decode()
                        else:
                            work.failures.append(
                                Failure(shard, "speech", utterances[key][2], str(clip))
                            )
                        progress.update()
        finally:
            if engine is not None:
                engine.close()


def speak_all(
    engine: SpeechEngine, utterances: dict[str, tuple[str, str, str]]
) -> Iterator[tuple[str, bytes | Exception]]:
    """Clips by key, as they come."""

    def speak_one(key: str) -> bytes:
        text, voice, _ = utterances[key]
        return speak(engine, text, voice)

    return map_concurrent(speak_one, utterances, engine.in_flight)


def count_takes(work: Work) -> int:
    """Recordings in our shards, near enough for a bar: questions that are never spoken count too."""
    train, other = work.arguments.recordings_per_question, len(work.arguments.test_voices)
    return sum(
        work.plan.shards[shard] * (train if shard.startswith("train-") else other)
        for shard in work.shards
    )


def add_noise_to_shards(work: Work) -> None:
    """A noisy copy of every clip."""
    noise = Noise(work.arguments.noise, work.arguments.noise_snr_db)
    with work.progress("noise", count_takes(work)) as progress:
        for shard in work.shards:
            with work.journal("speech", shard) as clips, work.journal("noise", shard) as journal:
                takes = {take.noisy_key: take for _, take in work.spoken_recordings(shard)}
                missing = journal.adopt(takes)
                skip(progress, len(takes) - len(missing))
                for key in missing:
                    clip = clips.get(takes[key].clip_key)
                    if clip is not None:
                        samples = decode_speech({"bytes": clip, "path": None}, takes[key].id)
                        journal.put(key, encode_speech(noise.apply(samples, key)))
                    progress.update()


def check_shards(work: Work) -> None:
    """What an independent recognizer hears in every clip, clean and noisy."""
    checker: SpeechVerifier | None = None
    with work.progress("checks", len(work.recordings) * count_takes(work)) as progress:
        try:
            for shard, kind in itertools.product(work.shards, work.recordings):
                with work.journal(kind, shard) as clips, work.journal("checks", shard) as journal:
                    for checks in recognizer_groups(work, shard, kind):
                        missing = journal.adopt(checks.rows)
                        skip(progress, len(checks.rows) - len(missing))
                        for start in range(0, len(missing), CLIPS_A_CALL):
                            checker = checker or SpeechVerifier(work.arguments)
                            some = missing[start : start + CLIPS_A_CALL]
                            journal.put_all(check_some(checker, some, checks, clips))
                            progress.update(len(some))
        finally:
            if checker is not None:
                checker.close()


class CheckSet(NamedTuple):
    """Clips that are heard together, and all that may be said in them."""

    sentences: list[str]
    rows: dict[str, tuple[dict[str, Any], str]]  # key of the check -> planned row, key of the clip


def recognizer_groups(work: Work, shard: str, kind: str) -> Iterator[CheckSet]:
    """The takes of a shard, some sentences at a time: as many as the recognizer is to tell apart."""
    size = find_recognizer(work.arguments).set_size
    takes = work.spoken_recordings(shard)
    sentences = list(dict.fromkeys(row["spoken"] for row, _ in takes))
    for start in range(0, len(sentences), size or max(len(sentences), 1)):
        some = sentences[start : start + size] if size else []
        within = set(some or sentences)
        clips = {
            take.clip_key if kind == "speech" else take.noisy_key: row
            for row, take in takes
            if row["spoken"] in within
        }
        keys = {clip: make_check_key(work.arguments, clip, some) for clip in clips}
        yield CheckSet(some, {key: (clips[clip], clip) for clip, key in keys.items()})


def check_some(
    checker: SpeechVerifier, keys: list[str], checks: CheckSet, clips: CallCache
) -> dict[str, bytes]:
    """Checks by key, of those clips that were spoken."""
    spoken = {}
    for key in keys:
        row, clip_key = checks.rows[key]
        clip = clips.get(clip_key)
        if clip is not None:
            spoken[key] = row, decode_speech({"bytes": clip, "path": None}, row["id"])
    found = checker.check(
        [samples for _, samples in spoken.values()],
        [row["spoken"] for row, _ in spoken.values()],
        [row["question"] for row, _ in spoken.values()],
        checks.sentences,
    )
    return {key: check.pack() for key, check in zip(spoken, found, strict=True)}
