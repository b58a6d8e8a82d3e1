"""One finished shard: a parquet file of kept rows, one of rejected rows, and a record of both, written last.

train-00003.parquet             rows of the contract's schema, clips inside
train-00003.rejected.parquet    the same columns and the rejection
train-00003.json                counts and checksums; a shard without it is not finished
"""

import collections
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Audio, Features, Value

from data_builders.answers import base as answers
from data_builders.answers.base import Answer
from data_builders.arguments import SpeechArguments
from data_builders.audio import measure_clip
from data_builders.outcomes import Rejected
from data_builders.pipeline.caches import ShardCaches
from data_builders.pipeline.run_stage import Outcomes
from data_builders.pipeline.stages import (
    AnswerStage,
    AugmentationStage,
    ShardRecordings,
    SpeechStage,
    VerificationStage,
)
from data_builders.schema import FEATURES, SPEECH_RATE_HZ
from data_builders.speech import synthesis
from data_builders.speech.augmentation import augmentation_label
from data_builders.speech.synthesis import engine_label
from data_builders.speech.verification import SpeechCheck
from data_builders.storage.atomic import write_atomic
from data_builders.storage.parquet import AtomicParquetWriter

# Decoding audio columns, the default of others who load the files. Training reads the bytes.
STORED_FEATURES = Features(
    {
        name: Audio(sampling_rate=SPEECH_RATE_HZ) if isinstance(feature, Audio) else feature
        for name, feature in FEATURES.items()
    }
)
REJECTED_FEATURES = Features(
    {**STORED_FEATURES, **{f"rejected_{name}": Value("string") for name in ("stage", "code", "detail")}}
)  # fmt: skip
FAILED = "failed"
# Codes that a repaired engine or server may lift.
RETRIED_CODES = (FAILED, "not_answered", "not_spoken")

JudgedRow = tuple[dict[str, Any], Rejected | None]


@dataclass
class RowAssembler:
    """Assembles the rows of a shard from the caches of the stages.

    Attributes:
        answers: None where no answers are generated; rows keep the source's.
        verification: None where no recognizer runs.
    """

    recordings: ShardRecordings
    caches: ShardCaches
    outcomes: Outcomes
    answers: AnswerStage | None
    verification: VerificationStage | None
    max_wer: float
    min_similarity: float

    def assemble(self, shard: str) -> Iterator[JudgedRow]:
        """Yield every recording as a row, with its rejection if there is one."""
        check_keys = {} if self.verification is None else self.verification.check_keys(shard)
        with ExitStack() as stack:
            answer_cache, clips, augmented, checks = (
                stack.enter_context(self.caches.open(stage, shard))
                for stage in (
                    AnswerStage.name,
                    SpeechStage.name,
                    AugmentationStage.name,
                    VerificationStage.name,
                )
            )

            def read_check(clip_key: str) -> SpeechCheck | None:
                return checks.read(check_keys[clip_key], SpeechCheck.unpack) if clip_key in check_keys else None

            for selected, recording in self.recordings.all(shard):
                row: dict[str, Any] = dict.fromkeys(FEATURES)
                row.update({name: value for name, value in selected.items() if name in row})
                row.update(id=recording.id, voice=recording.voice or None)
                rejections = []
                if self.answers is not None:
                    key = self.answers.key(selected)
                    rejections.append(self._add_answer(row, key, answer_cache.read(key, answers.unpack_answer)))
                if recording.clip_key:
                    key = recording.clip_key
                    rejections.append(self._add_speech(row, key, clips.get(key), read_check(key)))
                if recording.augmented_key:
                    key = recording.augmented_key
                    add_augmented(row, augmented.get(key), read_check(key), self.recordings.speech)
                yield row, next(filter(None, rejections), None)

    def _missing(self, key: str, stage: str) -> Rejected:
        """Return the rejection of a row whose call has no cached value."""
        return self.outcomes.rejected.get(key) or Rejected(stage, FAILED)

    def _add_answer(self, row: dict[str, Any], key: str, answer: Answer | None) -> Rejected | None:
        assert self.answers is not None
        if answer is None:
            return self._missing(key, answers.STAGE)
        limit = self.answers.max_new_tokens
        row["teacher_response"] = answer.text
        row["teacher"] = f"{self.answers.teacher}, greedy, at most {limit} tokens"
        if answer.finish_reason != "stop":
            return Rejected(answers.STAGE, "cut_off", answer.finish_reason)
        return None if answer.text else Rejected(answers.STAGE, "empty")

    def _add_speech(
        self, row: dict[str, Any], key: str, clip: bytes | None, check: SpeechCheck | None
    ) -> Rejected | None:
        if clip is None:
            return self._missing(key, synthesis.STAGE)
        row["speech"] = {"bytes": clip, "path": f"{row['id']}.flac"}
        row["speech_seconds"] = measure_clip(row["speech"], row["id"])
        row["speech_engine"] = engine_label(self.recordings.speech)
        if check is None:
            return None
        row.update(transcript=check.transcript, wer=check.wer, similarity=check.similarity)
        return check.reject(self.max_wer, self.min_similarity)


def add_augmented(row: dict[str, Any], clip: bytes | None, check: SpeechCheck | None, speech: SpeechArguments) -> None:
    """Add the augmented clip to the row; its word error rate is stored and rejects nothing."""
    if clip is not None:
        row["noisy_speech"] = {"bytes": clip, "path": f"{row['id']}-noisy.flac"}
        row["augmentation"] = augmentation_label(speech.augmentations, speech.noise_snr_db)
        row["noisy_wer"] = check and check.wer


def write_shard(rows: Iterable[JudgedRow], shard: str, folder: Path) -> None:
    """Write the shard's files; the JSON, which makes it finished, comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: collections.Counter[str] = collections.Counter()
    channels: collections.Counter[str] = collections.Counter()
    kept = AtomicParquetWriter(folder / f"{shard}.parquet", STORED_FEATURES)
    rejected = AtomicParquetWriter(folder / f"{shard}.rejected.parquet", REJECTED_FEATURES)
    with kept, rejected:
        for row, rejection in rows:
            if rejection is None:
                counts["kept"] += 1
                channels.update(row["channels"])
                kept.write(row)
            else:
                counts[rejection.code] += 1
                reason = {f"rejected_{name}": value for name, value in asdict(rejection).items()}
                rejected.write({**row, **reason})
        files = {writer.path.name: writer.close() for writer in (kept, rejected)}
    entry = {
        "counts": dict(sorted(counts.items())),
        "channels": dict(sorted(channels.items())),
        "files": files,
    }
    write_atomic(folder / f"{shard}.json", json.dumps(entry, indent=1).encode())
