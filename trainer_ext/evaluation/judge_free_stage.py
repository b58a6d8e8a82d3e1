"""Forgetting and misalignment of every student of a report, on the tokens of answers that were there before.

A student reads an item's response after the written and after the spoken question; nothing is generated and nobody is
asked. The response is the teacher's answer where the data have it, else the base's own written answer.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.audio import count_samples
from data_builders.causal_lm import TeacherSettings
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.atomic import write_atomic
from data_builders.storage.call_cache import content_key
from data_builders.storage.json_files import read_object
from trainer_ext.evaluation.benchmarks.base import LoadedBenchmark
from trainer_ext.evaluation.divergences import measure_divergences
from trainer_ext.evaluation.items import AnsweredItem
from trainer_ext.evaluation.scoring import Cell
from trainer_ext.evaluation.sources.base import AnswerSource, source_key
from trainer_ext.evaluation.sources.student import StudentSource
from trainer_ext.evaluation.statistics import Totals, estimate_difference, estimate_score
from trainer_ext.evaluation.summary import round_estimate
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.prompts import TeacherPromptEncoder


class Row(NamedTuple):
    """An item with its clip's place and the response that is read."""

    position: int
    response: str


class TextLLM:
    """The text LLM that forgetting is measured against; loaded when the first figure is missing."""

    def __init__(self, settings: TeacherSettings) -> None:
        self.settings = settings
        self._teacher: LiveTeacher | None = None
        self._encoder: TeacherPromptEncoder | None = None

    def fingerprint(self) -> str:
        return fingerprint_model(self.settings.name_or_path, self.settings.revision)

    def fits(self, source: StudentSource) -> bool:
        """Tell whether a student has the teacher's tokens; says so where it has not."""
        if self._encoder is None:
            self._encoder = TeacherPromptEncoder.from_pretrained(self.settings.name_or_path, self.settings.revision)
        try:
            self._encoder.check_student(source.family)
        except ValueError as error:
            print(f"no forgetting of {source.label}: {error}")
            return False
        return True

    def attach(self, source: StudentSource) -> LiveTeacher:
        """Return the teacher beside a student whose tokens it has."""
        if self._teacher is None:
            self._teacher = LiveTeacher.from_settings(self.settings)
        model = source.load()
        self._teacher.attach(model, model.device, 1.0)
        return self._teacher


class ItemRows:
    """Items as rows of the data contract, made one at a time."""

    def __init__(self, loaded: LoadedBenchmark, rows: Sequence[Row]) -> None:
        self.loaded, self.rows = loaded, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        position, response = self.rows[number]
        item, clip = self.loaded.items[position], self.loaded.read_clip(position)
        try:
            seconds = 0.0 if clip is None else count_samples(clip, item.id) / SPEECH_RATE_HZ
        except ValueError:  # the collator will say so, and the row is left out
            seconds = 0.0
        return {
            "id": item.id, "question": item.question, "system": item.system, "speech": clip,
            "speech_seconds": seconds, "teacher_response": response,
        }  # fmt: skip


def choose_rows(loaded: LoadedBenchmark, answers: Mapping[Cell, Sequence[AnsweredItem]], base: str | None) -> list[Row]:
    """Return the items that have a question in writing, a clip and a response."""
    if loaded.clips is None or loaded.condition or not {"text", "speech"} <= set(loaded.benchmark.modalities):
        return []
    written = answers.get(Cell(loaded.benchmark.name, base, "text"), []) if base is not None else []
    own = {entry.item.question_id: entry.answer.text for entry in written}
    rows = []
    for position, item in enumerate(loaded.items):
        response = item.details.get("teacher_response") or own.get(item.question_id)
        if item.question and response:
            rows.append(Row(position, response))
    return rows


def measure_students(
    sources: Sequence[AnswerSource],
    benchmarks: Sequence[LoadedBenchmark],
    answers: Mapping[Cell, Sequence[AnsweredItem]],
    base: str | None,
    teacher: TextLLM | None,
    folder: Path,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return a line for each divergence, student and benchmark, in nats per response token, with intervals.

    Args:
        base: the student that others are compared with.
        teacher: of forgetting; None leaves it out.
        folder: of the evaluation; finished figures are kept in it.
    """
    chosen = [(loaded, rows) for loaded in benchmarks if (rows := choose_rows(loaded, answers, base))]
    students = [source for source in sources if isinstance(source, StudentSource)]
    totals: dict[tuple[str, str, str], Totals] = {}
    for source, following in zip(students, [*students[1:], None], strict=True):
        fitting = teacher if teacher is not None and teacher.fits(source) else None
        for loaded, rows in chosen:
            questions = [loaded.items[row.position].question_id for row in rows]
            for name, sums in measure_source(source, loaded, rows, fitting, folder).items():
                totals[loaded.benchmark.name, name, source.label] = Totals.from_counts(
                    zip(questions, *sums, strict=True)
                )
        if following is None or following.weights is not source.weights:
            source.free()
    return [describe_total(key, totals, base, seed) for key in totals]


def describe_total(
    key: tuple[str, str, str], totals: Mapping[tuple[str, str, str], Totals], base: str | None, seed: int
) -> dict[str, Any]:
    """Return the line of one benchmark, divergence and student, with the change against the base."""
    benchmark, name, label = key
    line: dict[str, Any] = {"benchmark": benchmark, "name": name, "model": label}
    line |= round_estimate(estimate_score(totals[key], scale=1.0, seed=seed))
    if base is not None and label != base and (benchmark, name, base) in totals:
        change = estimate_difference(totals[key], totals[benchmark, name, base], scale=1.0, seed=seed)
        line["change"] = round_estimate(change)
    return line


def measure_source(
    source: StudentSource, loaded: LoadedBenchmark, rows: Sequence[Row], teacher: TextLLM | None, folder: Path
) -> dict[str, list[list[float]]]:
    """Return sum and tokens of every row for each divergence; read where they were measured already."""
    described = [[loaded.items[row.position].to_dict(), row.response, loaded.clip_hashes[row.position]] for row in rows]
    key = content_key("divergences 1", described, None if teacher is None else teacher.fingerprint())[:10]
    name = loaded.benchmark.name.replace("/", "__")
    file = folder / "divergences" / source_key(source) / f"{name}.{key}.json"
    state = PartialState()
    if not file.exists():
        state.wait_for_everyone()
        attached = None if teacher is None else teacher.attach(source)
        items = ItemRows(loaded, rows)
        found = measure_divergences(source.load(), source.family, items, attached, source.batch_size)
        if state.is_main_process:
            file.parent.mkdir(parents=True, exist_ok=True)
            content = {divergence: sums.tolist() for divergence, sums in found.items()}
            write_atomic(file, json.dumps(content).encode())
        state.wait_for_everyone()
    return read_object(file, "delete it, and it is measured again")
