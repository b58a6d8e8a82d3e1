"""One finished shard: a parquet file of kept rows, another of rejected ones, and what they amount to, written last.

train-00003.parquet             rows of the contract's schema, clips inside
train-00003.rejected.parquet    the same and why
train-00003.json                counts and checksums; a shard without it is not finished
"""

import collections
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
from datasets import Audio, Features, Value

from data_builders.answers.base import unpack_answer
from data_builders.arguments import BuildArguments
from data_builders.pipeline.stages import Work, recognizer_groups
from data_builders.schema import FEATURES, SPEECH_RATE_HZ
from data_builders.speech.augmentation import augmentation_label
from data_builders.speech.recordings import Recording
from data_builders.speech.synthesis import engine_label
from data_builders.speech.verification import Check
from data_builders.storage.atomic import AtomicParquetWriter, write_atomic
from data_builders.storage.call_cache import CallCache

# As others will load it: decoding, as usual. What trains reads the bytes.
STORED_FEATURES = Features(
    {
        name: Audio(sampling_rate=SPEECH_RATE_HZ) if isinstance(feature, Audio) else feature
        for name, feature in FEATURES.items()
    }
)
FAILED = "failed"
# How reasons begin that a mended engine or server may lift.
ASK_AGAIN = (FAILED, "not answered", "not spoken")
REJECTED_FEATURES = Features({**STORED_FEATURES, "reason": Value("string")})


def write_shard(work: Work, shard: str, folder: Path) -> None:
    """Write one shard, unless it is there or the result of one of its rows is not known yet.

    Every file is written beside its place, synced and renamed; the JSON comes last.
    """
    done = folder / f"{shard}.json"
    if done.exists():
        return
    failed = {failure.row for failure in work.failures if failure.shard == shard}
    if failed and not work.arguments.skip_failed:
        return
    folder.mkdir(parents=True, exist_ok=True)
    counts: collections.Counter[str] = collections.Counter()
    kept = AtomicParquetWriter(folder / f"{shard}.parquet", STORED_FEATURES)
    rejected = AtomicParquetWriter(folder / f"{shard}.rejected.parquet", REJECTED_FEATURES)
    for row, reason in judge_rows(work, shard, failed):
        counts[reason or "kept"] += 1
        if reason is None:
            kept.write(row)
            for channel in row["channels"]:
                counts[channel] += 1
        else:
            rejected.write({**row, "reason": reason})
    files = {file.path.name: file.close() for file in (kept, rejected)}
    entry = {"counts": dict(sorted(counts.items())), "files": files}
    write_atomic(done, json.dumps(entry, indent=1).encode())


def judge_rows(
    work: Work, shard: str, failed: set[str]
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Every take of a shard as a row, with why it is rejected."""
    arguments = work.arguments
    with (
        work.journal("answers", shard) as answers,
        work.journal("speech", shard) as speech,
        work.journal("noise", shard) as noise,
        work.journal("checks", shard) as checks,
    ):
        check_keys = {}
        if arguments.recognizer != "none":
            for kind in work.recordings:
                for checked in recognizer_groups(work, shard, kind):
                    check_keys.update({clip: key for key, (_, clip) in checked.rows.items()})
        for planned, take in work.takes(shard):
            row, reason = start_row(planned, take, arguments), None
            if work.teacher is not None:
                reason = add_answer(row, answers, work, planned)
            if take.clip_key:
                check = read_check(checks, check_keys.get(take.clip_key))
                clip = speech.get(take.clip_key)
                if clip is None:
                    reason = reason or explain_absence(work, take.clip_key, "not spoken")
                else:
                    why = add_speech(row, clip, check, arguments)
                    reason = reason or why
            if take.noisy_key:
                check = read_check(checks, check_keys.get(take.noisy_key))
                add_noisy_speech(row, noise.get(take.noisy_key), check, arguments)
            yield row, FAILED if failed & {row["id"], row["question"]} else reason


def explain_absence(work: Work, key: str, what: str) -> str:
    """Why a call has no result: it was refused, or failed time and again."""
    return f"{what}: {work.refusals[key]}" if key in work.refusals else FAILED


def start_row(
    planned: dict[str, Any], take: Recording, arguments: BuildArguments
) -> dict[str, Any]:
    """A row before it has an answer or a sound."""
    row = dict.fromkeys(FEATURES)
    row.update({name: value for name, value in planned.items() if name in row})
    return {**row, "id": take.id, "voice": take.voice or None}


def add_answer(
    row: dict[str, Any], answers: CallCache, work: Work, planned: dict[str, Any]
) -> str | None:
    """The teacher's answer into the row; returns why the row is rejected."""
    found = answers.get(work.answer_key(planned))
    if found is None:
        return explain_absence(work, work.answer_key(planned), "not answered")
    answer = unpack_answer(found)
    limit = work.arguments.answer_max_new_tokens
    row["teacher_response"] = answer.text
    row["teacher"] = f"{work.teacher}, greedy, at most {limit} tokens"
    if answer.finish_reason != "stop":
        return f"answer cut off ({answer.finish_reason})"
    return None if answer.text else "empty answer"


def add_speech(
    row: dict[str, Any], clip: bytes, check: Check | None, arguments: BuildArguments
) -> str | None:
    """The clip and what was heard into the row; returns why the row is rejected."""
    row["speech"] = {"bytes": clip, "path": f"{row['id']}.flac"}
    row["speech_seconds"] = soundfile.info(io.BytesIO(clip)).duration
    row["speech_engine"] = engine_label(arguments)
    if check is None:
        return None
    row.update(heard=check.heard, wer=check.wer, similarity=check.similarity)
    return check.rejection_reason(arguments)


def add_noisy_speech(
    row: dict[str, Any], clip: bytes | None, check: Check | None, arguments: BuildArguments
) -> None:
    """The noisy clip into the row: its word error rate is told, and nobody is rejected for it."""
    if clip is None:
        return
    row["noisy_speech"] = {"bytes": clip, "path": f"{row['id']}-noisy.flac"}
    row["noise"] = augmentation_label(arguments)
    row["noisy_wer"] = check and check.wer


def read_check(checks: CallCache, key: str | None) -> Check | None:
    found = checks.get(key) if key is not None else None
    return Check.unpack(found) if found is not None else None
