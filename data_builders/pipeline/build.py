"""Build a data set: selection -> answers -> speech -> augmentation -> verification -> shards -> data set.

Every stage looks into its cache first, so a second run does no work, a killed run resumes, and new voices redo speech
and verification alone. The manifest of a folder names the build that made it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_builders.answers.base import find_answer_generator
from data_builders.answers.fingerprint import fingerprint_teacher
from data_builders.arguments import BuildSettings, PipelineArguments
from data_builders.hub.folders import DATASET, keep_on_disk, make_upload
from data_builders.hub.push import push
from data_builders.hub.repository import Repository, claim_repository, with_owner
from data_builders.pipeline.assemble import assemble_dataset, find_unfinished, read_manifest, read_shard_record
from data_builders.pipeline.caches import ShardCaches
from data_builders.pipeline.dataset_card import describe_dataset
from data_builders.pipeline.executors import run_shares
from data_builders.pipeline.run_stage import Failure, Outcomes, run_stage
from data_builders.pipeline.shard import RETRIED_CODES, RowAssembler, write_shard
from data_builders.pipeline.stages import (
    AnswerStage,
    AugmentationStage,
    ShardRecordings,
    SpeechStage,
    Stage,
    VerificationStage,
)
from data_builders.questions.filter import TextCheck
from data_builders.questions.select import Selection, check_share, fingerprint_selection, select_questions
from data_builders.speech.augmentation import check_augmentations
from data_builders.speech.recordings import recordings_per_split
from data_builders.speech.synthesis import find_engine
from data_builders.speech.verification import NO_RECOGNIZER, find_recognizer
from data_builders.storage.atomic import SUFFIX, check_writable, write_atomic
from data_builders.storage.call_cache import content_key
from data_builders.storage.dataset_folder import load_dataset_folder
from data_builders.storage.json_files import read_json
from data_builders.storage.locks import locked
from data_builders.storage.run_record import write_run_record

FAILURES_SHOWN = 5
FAILED_CALLS = "failed-"  # and the share's number, .json


def build_dataset(settings: BuildSettings, text_check: TextCheck | None = None) -> Path | None:
    """Build the data set unless it exists; returns its folder, or None while other machines or a queue work on it.

    Args:
        text_check: a check of every question before anything is made of it.

    Raises:
        ValueError: bad questions or arguments, no row left, or failed rows; finished work is kept.
        ServerUnreachable: a server does not answer; finished work is kept.
    """
    check_names(settings)
    pipeline = settings.pipeline
    folder, root = Path(pipeline.output_dir), Path(pipeline.cache_dir).resolve()
    if root.is_relative_to(folder.resolve()):
        raise ValueError(
            f"cache_dir {root} is output_dir or inside it, which is replaced as a whole: name another folder"
        )
    teacher = fingerprint_teacher(settings.answers)
    key = fingerprint_build(settings, teacher, text_check)
    shards = root / "shards" / key
    manifest = check_folder(folder, key, pipeline.overwrite_output_dir)
    if pipeline.retry_failed:
        forget_failed(shards)
    elif manifest is not None and manifest["build"] == key:
        check_share(folder, manifest["counts"]["questions"], settings.questions.max_rejected_share)
        export_and_push(folder, settings)
        return folder
    if pipeline.push_to_hub:  # its errors come before any work
        assert settings.questions.questions is not None
        claim_repository(name_repository(pipeline), describe_dataset(settings.questions.questions))
    find_engine(settings.speech).check_voices([*settings.speech.train_voices, *settings.speech.test_voices])
    selection = select_questions(
        settings.questions,
        recordings_per_split(settings.speech),
        pipeline.max_shard_size,
        root,
        text_check=text_check,
    )
    if dropped := {code: n for code, n in selection.counts.items() if code not in ("read", "kept")}:
        reasons = ", ".join(f"{code} {count}" for code, count in dropped.items())
        print(f"{sum(dropped.values())} of {selection.counts['read']} questions are left out: {reasons}", flush=True)
    build = Build(settings, selection, root, shards, key, teacher)
    with build.locked():
        write_run_record(shards, {name: value for part in settings for name, value in asdict(part).items()})
        run_shares(build.run_share, pipeline, build.finish, shards / "logs")
    return folder if is_built(folder, key) else None


def check_folder(folder: Path, key: str, overwrite: bool) -> dict[str, Any] | None:
    """Return the manifest of the data set that is in the folder already, before any work; None for none.

    Raises:
        ValueError: the folder cannot be written, or holds another data set.
    """
    check_writable(folder.parent, f"output_dir {folder}")
    manifest = read_manifest(folder)  # refuses a folder of something else
    if manifest is not None and manifest["build"] != key and not overwrite:
        rows = ", ".join(f"{count} {split}" for split, count in manifest["rows"].items())
        raise ValueError(
            f"{folder} holds another data set ({rows} rows), made with other questions or settings: name another "
            "output_dir, or add --overwrite_output_dir true to replace it"
        )
    return manifest


def is_built(folder: Path, key: str) -> bool:
    """Tell whether the folder holds this very build, complete."""
    manifest = read_manifest(folder)
    return manifest is not None and manifest["build"] == key


def check_names(settings: BuildSettings) -> None:
    """Raise ValueError for an unknown engine, recognizer or effect, before any work."""
    find_answer_generator(settings.answers)
    find_engine(settings.speech)
    if settings.verification.recognizer != NO_RECOGNIZER:
        recognizer = find_recognizer(settings.verification)
        if recognizer.english_only and settings.questions.language != "en":
            raise ValueError(
                f"recognizer {recognizer.name} knows English alone, and language is {settings.questions.language!r}: "
                "set recognizer to whisper or none"
            )
    check_augmentations(settings.speech.augmentations)


def forget_failed(shards: Path) -> None:
    """Reopen the finished shards with rows that a repaired engine or server may give."""
    for record in shards.glob("*.json"):
        if not record.name.startswith(FAILED_CALLS) and set(RETRIED_CODES) & set(read_shard_record(record)["counts"]):
            record.unlink()


@dataclass
class Build:
    """The state that the processes of one build share."""

    settings: BuildSettings
    selection: Selection
    root: Path  # the cache folder
    shards: Path  # the folder of finished shards
    key: str
    teacher: str | None  # fingerprint; None where no answers are generated

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for processes that build the same: machines with parts of it exclude the one that has all of it."""
        machine, machines = self.settings.pipeline.parse_shard()
        waiting_for = "builds the same data set"
        with (
            locked(self.shards / "build.lock", waiting_for, shared=machines > 1),
            locked(self.shards / f"{machine}-of-{machines}.lock", waiting_for),
        ):
            if machines == 1:
                for leftover in self.shards.glob(f"*{SUFFIX}"):
                    leftover.unlink()
            yield

    @property
    def recordings(self) -> ShardRecordings:
        return ShardRecordings(self.selection, self.settings.speech, self.settings.questions.seed)

    def run_share(self, rank: int, world_size: int) -> None:
        """Run all stages of every `world_size`-th shard from `rank` on, and write the decided ones."""
        unfinished = set(find_unfinished(self.selection.shards, self.shards))
        ours = list(self.selection.shards)[rank::world_size]
        ours = [shard for shard in ours if shard in unfinished]
        report = self.shards / f"{FAILED_CALLS}{rank}-of-{world_size}.json"
        report.unlink(missing_ok=True)
        if not ours:
            return
        caches, outcomes = ShardCaches(self.root), Outcomes()
        answers, verification = self.make_answer_stage(), self.make_verification_stage(caches)
        stages: list[Stage | None] = [
            answers,
            SpeechStage(self.recordings),
            AugmentationStage(self.recordings, caches) if self.settings.speech.augmentations else None,
            verification,
        ]
        for stage in stages:
            if stage is not None:
                run_stage(stage, ours, caches, outcomes, quiet=rank > 0)
        assembler = RowAssembler(
            self.recordings,
            caches,
            outcomes,
            answers,
            verification,
            self.settings.verification.max_wer,
            self.settings.verification.min_similarity,
        )
        undecided = {failure.shard for failure in outcomes.failed.values()}
        for shard in ours:
            if self.settings.pipeline.skip_failed or shard not in undecided:
                write_shard(assembler.assemble(shard), shard, self.shards)
        if outcomes.failed:
            report.parent.mkdir(parents=True, exist_ok=True)
            failures = [failure._asdict() for failure in outcomes.failed.values()]
            write_atomic(report, json.dumps(failures).encode())

    def make_answer_stage(self) -> AnswerStage | None:
        """Return the stage of the teacher's answers; None where there is no teacher."""
        if self.teacher is None:
            return None
        arguments = self.settings.answers
        generator = find_answer_generator(arguments)
        return AnswerStage(
            self.selection,
            self.teacher,
            arguments.answer_max_new_tokens,
            arguments.answer_batch_size if generator.batched else 1,
            lambda: generator.from_arguments(arguments),
        )

    def make_verification_stage(self, caches: ShardCaches) -> VerificationStage | None:
        """Return the stage of the recognizer; None where there is none."""
        if self.settings.verification.recognizer == NO_RECOGNIZER:
            return None
        return VerificationStage(self.recordings, self.settings.verification, caches, self.settings.questions.language)

    def finish(self) -> None:
        """Assemble the data set, if every shard is finished.

        Raises:
            ValueError: rows failed, or another machine's shards are not finished.
        """
        unfinished = find_unfinished(self.selection.shards, self.shards)
        if failures := self.read_failures(set(unfinished)):
            shown = "\n".join(
                f"  {failure.stage}, {failure.call}: {failure.error}" for failure in failures[:FAILURES_SHOWN]
            )
            raise ValueError(
                f"{len(failures)} calls failed, all others are kept; run this again to retry them, or add "
                f"--skip_failed true to finish without their rows. All are in {self.shards}/{FAILED_CALLS}*.json"
                f"\n{shown}"
            )
        if unfinished:
            _, machines = self.settings.pipeline.parse_shard()
            if machines > 1:
                print(
                    f"{len(unfinished)} shards belong to other machines and are not finished; finish with --shard 0/1"
                )
                return
            raise ValueError(f"{len(unfinished)} shards are not finished: run this again")
        folder = Path(self.settings.pipeline.output_dir)
        with locked(folder.with_name(f".{folder.name}.lock"), f"writes {folder}"):  # one of several machines, or builds
            manifest = check_folder(folder, self.key, self.settings.pipeline.overwrite_output_dir)
            built = manifest is not None and manifest["build"] == self.key
            if built and not self.settings.pipeline.retry_failed:
                return
            assemble_dataset(self.settings, self.recordings, self.shards, self.key, self.teacher)
            export_and_push(folder, self.settings)

    def read_failures(self, unfinished: set[str]) -> list[Failure]:
        """Return the failures in unfinished shards, from every process's report."""
        reports = [
            read_json(file, "delete it and run this again")
            for file in sorted(self.shards.glob(f"{FAILED_CALLS}*.json"))
        ]
        failures = [Failure(**entry) for report in reports for entry in report]
        latest = {(f.shard, f.stage, f.call): f for f in failures if f.shard in unfinished}
        return list(latest.values())


def export_and_push(folder: Path, settings: BuildSettings) -> None:
    """Write Arrow files and push, where the settings ask for it."""
    pipeline = settings.pipeline
    if pipeline.save_to_disk is not None:
        load_dataset_folder(str(folder)).save_to_disk(pipeline.save_to_disk)
    if pipeline.push_to_hub:
        repository = name_repository(pipeline)
        with keep_on_disk(folder, repository):
            repository = with_owner(repository)
            upload = make_upload(folder, DATASET, repository.id)
            print(push(upload, claim_repository(repository, upload.contents), "Data set"))


def name_repository(pipeline: PipelineArguments) -> Repository:
    """Return the repository that the settings name."""
    assert pipeline.hub_dataset_id is not None
    return Repository(
        pipeline.hub_dataset_id, "dataset", pipeline.hub_private_repo, overwrite=pipeline.overwrite_repository
    )


def fingerprint_build(settings: BuildSettings, teacher: str | None, text_check: TextCheck | None = None) -> str:
    """Return a hash of everything that the rows of a build depend on."""
    speech, verification = settings.speech, settings.verification
    return content_key(
        "build 4",
        fingerprint_selection(
            settings.questions, recordings_per_split(speech), settings.pipeline.max_shard_size, text_check
        ),
        teacher,
        settings.answers.answer_max_new_tokens,
        [speech.speech_engine, speech.speech_model, speech.train_voices, speech.test_voices],
        [speech.recordings_per_question, speech.augmentations, speech.noise_snr_db],
        [verification.recognizer, verification.recognizer_model, verification.max_wer],
        [verification.similarity_model, verification.min_similarity],
    )[:16]
