"""Questions in, a data set of checked pairs on disk out: plan -> answers -> speech -> checks -> shards -> data set.

Every stage asks the journals first, so a second run does no work, a killed run goes on where it was, and new voices
redo speech and checks alone. What a folder was made from is in its manifest.
"""

import fcntl
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from data_builders.answers.base import AnswerGenerator
from data_builders.arguments import BuildArguments
from data_builders.pipeline.assemble import assemble_dataset, find_unfinished, read_manifest
from data_builders.pipeline.executors import run_shares
from data_builders.pipeline.shard import ASK_AGAIN, write_shard
from data_builders.pipeline.stages import Failure, Work
from data_builders.questions.select import Plan, fingerprint_selection, select_questions
from data_builders.speech.augmentation import check_augmentations
from data_builders.speech.synthesis import find_engine
from data_builders.speech.verification import find_recognizer
from data_builders.storage.atomic import write_atomic
from data_builders.storage.call_cache import content_key
from data_builders.storage.dataset_folder import export_and_push

if TYPE_CHECKING:  # transformers is needed only to answer
    from transformers import PreTrainedModel

FAILURES_SHOWN = 5


def build_dataset(
    arguments: BuildArguments,
    teacher: str | None,
    load_teacher: "Callable[[], PreTrainedModel] | None" = None,
) -> Path | None:
    """Build the data set unless it is there; returns its folder, or None while other machines or a queue are at it.

    Args:
        teacher: identity of who answers; None where nobody does.
        load_teacher: as in `load_pairs`.

    Raises:
        ValueError: bad questions or arguments, no row left, or rows that failed; what is finished is kept.
    """
    check_names(arguments)
    folder, root = Path(arguments.output_dir), Path(arguments.cache_dir).resolve()
    key = fingerprint_build(arguments, teacher)
    shards = root / "shards" / key
    if arguments.retry_failed:
        forget_failed(shards)
    elif is_built(folder, key):
        export_and_push(folder, arguments)
        return folder
    build = Build(arguments, select_questions(arguments), shards, key, teacher, load_teacher)
    run_shares(build.do_share, arguments, build.finish, shards / "logs")
    return folder if is_built(folder, key) else None


def is_built(folder: Path, key: str) -> bool:
    """Whether the folder holds this very data set, whole."""
    found = read_manifest(folder)
    return found is not None and found["build"] == key


def check_names(arguments: BuildArguments) -> None:
    """Refuse engines, recognizers and effects that nobody knows, before anything is made for them."""
    find_engine(arguments)
    if arguments.recognizer != "none":
        find_recognizer(arguments)
    check_augmentations(arguments.noise)


def forget_failed(shards: Path) -> None:
    """Take the finished shards apart that lack rows which a mended engine or server may give."""
    for done in shards.glob("*.json"):
        content = json.loads(done.read_text())
        if "counts" in content and any(
            reason.startswith(ASK_AGAIN) for reason in content["counts"]
        ):
            done.unlink()


@dataclass
class Build:
    """One build: what its processes share."""

    arguments: BuildArguments
    plan: Plan
    shards: Path  # the folder of its finished shards
    key: str
    teacher: str | None
    load_teacher: "Callable[[], PreTrainedModel] | None" = None

    def do_share(self, rank: int, world_size: int) -> None:
        """Every `world_size`-th shard, from `rank` on."""
        unfinished = set(find_unfinished(self.plan, self.shards))
        mine = [shard for shard in list(self.plan.shards)[rank::world_size] if shard in unfinished]
        report = self.shards / f"failed-{rank}-of-{world_size}.json"
        report.unlink(missing_ok=True)
        if not mine:
            return
        work = Work(
            self.arguments, self.plan, mine, self.teacher, self.load_generator, quiet=rank > 0
        )
        failures = work.run()
        for shard in mine:
            write_shard(work, shard, self.shards)
        if failures:
            report.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(report, json.dumps([failure._asdict() for failure in failures]).encode())

    def load_generator(self) -> AnswerGenerator:
        """Who answers, ready to."""
        arguments = self.arguments
        name = arguments.teacher_model_name_or_path
        assert name is not None
        if arguments.teacher_base_url is not None:
            from data_builders.answers.openai_server import OpenAIServer

            return OpenAIServer(
                arguments.teacher_base_url,
                name,
                arguments.answer_max_new_tokens,
                arguments.answer_batch_size,
            )
        from data_builders.answers.local_model import LocalModel

        return LocalModel(
            name,
            arguments.teacher_model_revision,
            arguments.answer_max_new_tokens,
            self.load_teacher,
            dtype=arguments.teacher_dtype,
            device_map=arguments.teacher_device_map,
        )

    def finish(self) -> None:
        """The finished data set, if every shard is whole.

        Raises:
            ValueError: rows failed, or another machine's shards are not finished.
        """
        unfinished = find_unfinished(self.plan, self.shards)
        failures = self.read_failures(set(unfinished))
        if failures:
            shown = "\n".join(
                f"  {failure.stage}, {failure.row}: {failure.error}"
                for failure in failures[:FAILURES_SHOWN]
            )
            raise ValueError(
                f"{len(failures)} rows failed, all others are kept; run this again to try them once more, or add "
                f"--skip_failed true to go on without them. All of them are in {self.shards}/failed-*.json\n{shown}"
            )
        if unfinished:
            _, machines = self.arguments.parse_shard()
            if machines > 1:
                print(
                    f"{len(unfinished)} shards are still with other machines; finish with --shard 0/1"
                )
                return
            raise ValueError(f"{len(unfinished)} shards are not finished: run this again")
        folder = Path(self.arguments.output_dir)
        with (self.shards / "finish.lock").open("w") as lock:
            # Of machines that come to the end together, one finishes.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_built(folder, self.key) and not self.arguments.retry_failed:
                return
            manifest = assemble_dataset(
                self.arguments, self.plan, self.shards, self.key, self.teacher
            )
            show_counts(manifest["counts"])
            export_and_push(folder, self.arguments)

    def read_failures(self, unfinished: set[str]) -> list[Failure]:
        """What failed in shards that are not finished, in every process's report."""
        reports = [
            json.loads(file.read_text()) for file in sorted(self.shards.glob("failed-*.json"))
        ]
        failures = [Failure(**entry) for report in reports for entry in report]
        latest = {(f.shard, f.stage, f.row): f for f in failures if f.shard in unfinished}
        return list(latest.values())


def show_counts(counts: dict[str, dict[str, int]]) -> None:
    """What became of every question and row, as a table."""
    table = Table("stage", "outcome", "rows", box=SIMPLE_HEAD)
    for stage, outcomes in counts.items():
        for outcome, count in outcomes.items():
            table.add_row(stage, outcome, str(count))
    Console().print(table)


def fingerprint_build(arguments: BuildArguments, teacher: str | None) -> str:
    """Names a build by all that its rows depend on."""
    names = [
        *(
            "speech_engine",
            "speech_model",
            "train_voices",
            "test_voices",
            "recordings_per_question",
        ),
        *("answer_max_new_tokens", "noise", "noise_snr_db", "seed"),
        *("recognizer", "recognizer_model", "max_wer", "similarity_model", "min_similarity"),
    ]
    return content_key(
        "build 1",
        fingerprint_selection(arguments),
        teacher,
        {name: getattr(arguments, name) for name in names},
    )[:16]
