"""An evaluation from beginning to end: models and benchmarks -> answers -> scores -> report, pictures and page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_builders.outcomes import TemporaryFailure
from trainer_ext.evaluation.answering import Generation, answer_benchmark
from trainer_ext.evaluation.benchmarks.base import LoadedBenchmark
from trainer_ext.evaluation.conditions import NOISE
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings, load_evaluator
from trainer_ext.evaluation.items import AnsweredItem
from trainer_ext.evaluation.page import write_page
from trainer_ext.evaluation.plots import plot_report
from trainer_ext.evaluation.report import describe_benchmark, make_report, write_report
from trainer_ext.evaluation.scoring import Cell, Results, score_cells, write_scores
from trainer_ext.evaluation.sources.base import AnswerSource
from trainer_ext.evaluation.summary import ALL, summarize


@dataclass(frozen=True)
class EvaluationPlan:
    """The questions to ask, and the scores and comparisons to report.

    Attributes:
        benchmarks: also one entry per condition of the recordings.
        evaluators: benchmark -> name of its evaluator.
        base: the model that others are compared with; None for no comparison.
        overall: name -> benchmarks whose mean it is.
    """

    benchmarks: Sequence[LoadedBenchmark]
    evaluators: Mapping[str, str]
    modalities: Sequence[str]
    settings: EvaluatorSettings
    generation: Generation
    base: str | None
    overall: Mapping[str, Sequence[str]] = field(default_factory=dict)
    page_items: int = 1000


def find_missing(plan: EvaluationPlan) -> dict[str, str]:
    """Return what evaluators lack, by benchmark, before anything is asked."""
    missing = {name: load_evaluator(evaluator, plan.settings).missing() for name, evaluator in plan.evaluators.items()}
    return {name: lack for name, lack in missing.items() if lack is not None}


def check_references(plan: EvaluationPlan) -> None:
    """Raise ValueError for an item without the reference that its evaluator compares with."""
    for loaded in plan.benchmarks:
        name = plan.evaluators[loaded.benchmark.name]
        lacking = [item.id for item in loaded.items if not item.reference]
        if lacking and load_evaluator(name, plan.settings).needs_reference:
            raise ValueError(
                f"{loaded.benchmark.name}: {len(lacking)} of {len(loaded.items)} items have no reference, which the "
                f"evaluator {name} compares with; the first is {lacking[0]}"
            )


def collect_answers(
    sources: Sequence[AnswerSource], plan: EvaluationPlan, folder: Path
) -> dict[Cell, list[AnsweredItem]]:
    """Ask every model every benchmark in the modalities that both have, model by model.

    Raises:
        TemporaryFailure: some questions have no answer yet; everything else was asked first.
    """
    answers: dict[Cell, list[AnsweredItem]] = {}
    failures: list[str] = []
    for source, following in zip(sources, [*sources[1:], None], strict=True):
        for loaded in plan.benchmarks:
            for modality in choose_modalities(source, loaded, plan.modalities):
                cell = Cell(loaded.benchmark.name, source.label, modality, loaded.condition)
                try:
                    answers[cell] = answer_benchmark(source, loaded, modality, folder, plan.generation)
                except TemporaryFailure as failure:
                    failures.append(str(failure))
        if following is None or following.weights is not source.weights:
            source.free()
    if failures:
        raise TemporaryFailure("\n".join(failures))
    return answers


def choose_modalities(source: AnswerSource, loaded: LoadedBenchmark, wanted: Sequence[str]) -> list[str]:
    """Return the modalities to ask in; changed recordings change nothing in writing."""
    return [
        modality
        for modality in loaded.benchmark.modalities
        if modality in wanted and modality in source.modalities and not (loaded.condition and modality == "text")
    ]


def report_answers(
    answers: Mapping[Cell, Sequence[AnsweredItem]],
    sources: Sequence[AnswerSource],
    plan: EvaluationPlan,
    folder: Path,
    items_folder: Path,
    finish: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    results: Results | None = None,
    **facts: Any,
) -> tuple[dict[str, Any], Results]:
    """Score answers and write report.json, report.md and pictures, scores.jsonl and index.html; returns the report.

    Args:
        folder: of figures alone.
        items_folder: of what shows questions, clips and answers: scores.jsonl and index.html.
        finish: adds to the report what is made of its figures.
        results: scores that were made before; None makes them.
        facts: further keys of the report.
    """
    not_scored = find_missing(plan)
    if results is None:
        results = score_cells(answers, plan.evaluators, plan.settings)
    for place in (folder, items_folder):
        place.mkdir(parents=True, exist_ok=True)
    write_scores(items_folder / "scores.jsonl", results)
    figures = summarize(results, plan.base, plan.overall, plan.settings.seed)
    report = make_report(
        figures,
        {source.label: source.describe() for source in sources},
        {
            loaded.benchmark.name: describe_benchmark(
                loaded.benchmark, plan.evaluators[loaded.benchmark.name], len(loaded.items)
            )
            for loaded in plan.benchmarks
        },
        plan.settings,
        not_scored,
        robustness=list_robustness(figures["scores"], facts.get("clip_errors", [])),
        **facts,
    )
    report = finish(report)
    write_report(folder, report)
    pictures = plot_report(folder, report, results)
    about = f"Protocol {plan.settings.protocol}; {len(report['models'])} models."
    page = items_folder / "index.html"
    write_page(page, results, make_clip_reader(plan), plan.base, pictures, about, plan.page_items)
    return report, results


def make_clip_reader(plan: EvaluationPlan) -> Callable[[str, str], dict[str, Any] | None]:
    """Return a function from benchmark and item id to the unchanged clip."""
    places = {
        (loaded.benchmark.name, item.id): (loaded, position)
        for loaded in plan.benchmarks
        if not loaded.condition
        for position, item in enumerate(loaded.items)
    }

    def read(benchmark: str, item_id: str) -> dict[str, Any] | None:
        loaded, position = places[benchmark, item_id]
        return loaded.read_clip(position)

    return read


def list_robustness(
    scores: Sequence[Mapping[str, Any]], clip_errors: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the speech scores of benchmarks that are asked under conditions, the plain ones too.

    A line has the signal-to-noise ratio where noise was added, and the word error rate where clips were transcribed.
    """
    changed = {line["benchmark"] for line in scores if line["condition"]}
    errors = {(line["benchmark"], line["condition"]): line["value"] for line in clip_errors}
    lines = []
    for line in scores:
        if line["benchmark"] in changed and (line["modality"], line["group"]) == ("speech", ALL) and "value" in line:
            kept = {key: line[key] for key in ("benchmark", "model", "condition", "value", "low", "high")}
            name, _, rest = line["condition"].partition(" ")
            if name == NOISE:
                kept["snr_db"] = float(rest.removesuffix(" dB"))
            if (found := errors.get((line["benchmark"], line["condition"]))) is not None:
                kept["word_error_rate"] = found
            lines.append(kept)
    return lines
