"""The held-out questions of a training run: asked before and after it, in writing and in speech, with one report.

Held-out questions about sounds are asked beside them, each with its sound.

rows -> before: answers, divergences -> training -> after: answers, divergences -> report.json, pictures, page
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from data_builders.schema import SOUND_CHANNEL
from trainer_ext.evaluation.answering import Generation
from trainer_ext.evaluation.benchmarks.own_data import make_pairs_benchmark
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings, load_evaluator
from trainer_ext.evaluation.items import STOP, Answer, AnsweredItem
from trainer_ext.evaluation.run import EvaluationPlan, collect_answers, report_answers
from trainer_ext.evaluation.scoring import Cell
from trainer_ext.evaluation.sources.base import AnswerSource
from trainer_ext.evaluation.sources.student import StudentSource
from trainer_ext.evaluation.statistics import Totals, estimate_score
from trainer_ext.evaluation.summary import ALL, round_estimate
from trainer_ext.evaluation.tables import find_line
from trainer_ext.students.base import StudentFamily

NEEDED_COLUMNS = ("source", "question", "system", "teacher_response", "speech", "speech_seconds")
ITEMS_FOLDER = "_answers"  # `push_to_hub` uploads no name that begins with an underscore
BEFORE, AFTER, TEACHER = "before", "after", "teacher"
NAME, SOUNDS = "held-out questions", "held-out sounds"
AUTOMATIC = ("exact_answer", "word_overlap")  # evaluators that are chosen by the rows
FIGURES = ("text", "speech", "gap", "forgetting")


def select_held_out(dataset: Dataset | None) -> Dataset | None:
    """Return the rows with speech and the teacher's answer; None if there are none."""
    if dataset is None or not set(NEEDED_COLUMNS) <= set(dataset.column_names):
        return None
    needed = dataset.select_columns(["teacher_response", "speech_seconds"])
    rows = [i for i, row in enumerate(needed) if all(row.values())]
    return dataset.select(rows) if rows else None


def select_sounds(dataset: Dataset | None) -> Dataset | None:
    """Return the rows that ask about a sound and have something to compare with; None if there are none.

    All have a reference, where any has one; else all have the teacher's answer.
    """
    if dataset is None or not {*NEEDED_COLUMNS[:4], "audio", "channels", "reference"} <= set(dataset.column_names):
        return None
    needed = dataset.select_columns(["channels", "reference", "teacher_response"])
    asked = {i: row for i, row in enumerate(needed) if row["channels"] == [SOUND_CHANNEL]}
    for column in ("reference", "teacher_response"):
        if rows := [i for i, row in asked.items() if row[column]]:
            return dataset.select(rows)
    return None


def choose_evaluator(named: str | None, rows: Dataset) -> str:
    """Return the evaluator: the one that was named, exact answers where every row has a reference, else agreement."""
    if named is not None:
        return named
    has_references = "reference" in rows.column_names and all(rows["reference"])
    return AUTOMATIC[0] if has_references else AUTOMATIC[1]


def select_referenced(rows: Dataset, evaluator: str) -> Dataset:
    """Return the rows with a reference.

    Raises:
        ValueError: there are none.
    """
    references = rows["reference"] if "reference" in rows.column_names else []
    if not any(references):
        raise ValueError(
            f"evaluator {evaluator} compares with a reference, and no held-out question has one: leave it unset, which "
            "compares with the teacher's answers, or add the column"
        )
    return rows.select([i for i, reference in enumerate(references) if reference])


class HeldOut:
    """Held-out questions and what was measured on them so far.

    Args:
        rows: of `select_held_out`.
        evaluator: a name of EVALUATORS; None chooses by the rows, as for the sounds.
        sounds: of `select_sounds`.
        folder: of the run, for report and pictures; answers and page are in a folder of it that is never pushed.
    """

    def __init__(
        self,
        rows: Dataset,
        evaluator: str | None,
        max_new_tokens: int,
        folder: Path,
        seed: int = 0,
        sounds: Dataset | None = None,
    ) -> None:
        self.folder, self.items_folder = folder, folder / ITEMS_FOLDER
        self.evaluator = choose_evaluator(evaluator, rows)
        loaded_evaluator = load_evaluator(self.evaluator)
        if missing := loaded_evaluator.missing():
            raise ValueError(f"evaluator {self.evaluator} needs {missing}")
        if loaded_evaluator.needs_reference:
            rows = select_referenced(rows, self.evaluator)
        self.rows = rows
        benchmarks = [make_pairs_benchmark(rows, NAME, self.evaluator, max_new_tokens)]
        if sounds is not None:
            name = choose_evaluator(None, sounds)
            benchmarks.append(make_pairs_benchmark(sounds, SOUNDS, name, max_new_tokens, about_sounds=True))
        self.plan = EvaluationPlan(
            benchmarks=benchmarks,
            evaluators={loaded.benchmark.name: loaded.benchmark.evaluator for loaded in benchmarks},
            modalities=("text", "speech", "audio"),
            settings=EvaluatorSettings(seed=seed),
            generation=Generation(seed=seed),
            base=BEFORE,
        )
        loaded_evaluator.evaluate(self._list_teacher_answers()[:1])  # its errors come before the training
        self.answers: dict[Cell, list[AnsweredItem]] = {}
        self.sources: list[AnswerSource] = []
        self.divergences: dict[str, dict[str, Tensor]] = {}

    def ask(self, label: str, model: PreTrainedModel, family: StudentFamily, facts: Mapping[str, Any]) -> None:
        """Ask a model all questions; answers of an earlier run that depend on the same facts are read.

        Args:
            facts: what the weights depend on.
        """
        source = StudentSource(label, family, lambda: model.eval(), lambda: {**facts, "label": label})
        self.sources.append(source)
        self.answers |= collect_answers([source], self.plan, self.items_folder)

    def report(self, **facts: Any) -> dict[str, Any]:
        """Score all answers and write report.json, report.md, pictures and page; returns the report.

        Args:
            facts: of the run, further keys of the report.
        """
        answers = {Cell(NAME, TEACHER, "text"): self._list_teacher_answers(), **self.answers}
        report, _ = report_answers(
            answers, self.sources, self.plan, self.folder, self.items_folder,
            evaluator=self.evaluator, judge_free=self._list_divergences(), finish=add_lines, **facts,
        )  # fmt: skip
        return report

    def _list_teacher_answers(self) -> list[AnsweredItem]:
        """Return the teacher's answers, which the data have, once per question."""
        items = {item.question_id: item for item in reversed(self.plan.benchmarks[0].items)}
        return [
            AnsweredItem(item, "text", Answer(item.details["teacher_response"], STOP))
            for item in reversed(items.values())
        ]

    def _list_divergences(self) -> list[dict[str, Any]]:
        """Return forgetting and misalignment before and after, in nats per response token, with intervals."""
        lines = []
        questions = [item.question_id for item in self.plan.benchmarks[0].items]
        for label, found in self.divergences.items():
            for name, sums in found.items():
                totals = Totals.from_counts(zip(questions, *sums.tolist(), strict=True))
                estimate = estimate_score(totals, scale=1.0, seed=self.plan.settings.seed)
                lines.append({"name": name, "model": label, **round_estimate(estimate)})
        return lines


def add_lines(report: dict[str, Any]) -> dict[str, Any]:
    """Add `before` and `after`: group -> teacher's text score, student's text and speech, gap and forgetting.

    `sounds` has the scores of questions about sounds, where there are any: before and after -> group -> score.
    """
    groups = list(dict.fromkeys(line["group"] for line in report["scores"] if line["benchmark"] == NAME))
    sounds: dict[str, dict[str, float]] = {}
    for line in report["scores"]:
        if line["benchmark"] == SOUNDS:
            sounds.setdefault(line["model"], {})[line["group"]] = line["value"]
    return {
        **report,
        **{label: {group: make_line(report, label, group) for group in groups} for label in (BEFORE, AFTER)},
        **({"sounds": sounds} if sounds else {}),
    }


def make_line(report: Mapping[str, Any], label: str, group: str) -> dict[str, float]:
    """Return the figures of one group, in percent."""

    def score(model: str, modality: str) -> float:
        line = find_line(report["scores"], benchmark=NAME, model=model, modality=modality, group=group)
        assert line is not None
        return line["value"]

    teacher, text, speech = score(TEACHER, "text"), score(label, "text"), score(label, "speech")
    return {
        "teacher_text": teacher, "text": text, "speech": speech, "gap": text - speech, "forgetting": teacher - text,
    }  # fmt: skip


def show_lines(report: Mapping[str, Any]) -> None:
    """Print the figures of every group before and after, in percent, and the divergences, in 80 columns."""
    table = Table(
        title=f"{report['evaluator']} on held-out questions, percent: before → after",
        title_justify="left", box=SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    table.add_column("questions", no_wrap=True)
    for heading in ("teacher\ntext", "student\ntext", "student\nspeech", "gap", "forgetting"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group, new in report[AFTER].items():
        old = report[BEFORE][group]
        if group == ALL:
            table.add_section()
        cells = [f"{old[name]:.1f}→{new[name]:.1f}" for name in FIGURES]
        table.add_row(group.rpartition("/")[2], f"{new['teacher_text']:.1f}", *cells)
    Console().print(table)
    if "sounds" in report:
        old, new = report["sounds"][BEFORE], report["sounds"][AFTER]
        changes = [f"{group.rpartition('/')[2]} {old[group]:.1f}→{value:.1f}" for group, value in new.items()]
        print(f"questions about sounds, percent: {', '.join(changes)}")
    for name in dict.fromkeys(line["name"] for line in report["judge_free"]):
        found = [find_line(report["judge_free"], name=name, model=label) for label in (BEFORE, AFTER)]
        shown = [f"{line['value']:.3f} [{line['low']:.3f}, {line['high']:.3f}]" for line in found if line is not None]
        print(f"{name}, nats per response token: {' → '.join(shown)}")
    lines = [find_line(report["scores"], model=AFTER, modality=m, group=ALL) for m in ("text", "speech")]
    health = [line["health"] for line in lines if line is not None]
    shares = [f"{name} {' / '.join(f'{h[name]:.1f}' for h in health)}" for name in ("ended", "empty", "repeated")]
    print(f"answers after, percent in text / speech: {', '.join(shares)}")
