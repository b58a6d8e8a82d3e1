"""Figures of a report as a table in the terminal, as Markdown for a model card, and as the Hub's model-index."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from trainer_ext.evaluation.summary import ALL

MODALITY_ORDER = ("text", "speech", "audio")
Line = Mapping[str, Any]


def find_line(lines: Sequence[Line], **wanted: Any) -> Line | None:
    """Return the first line with these values; None if there is none."""
    return next((line for line in lines if all(line.get(key) == value for key, value in wanted.items())), None)


def show_scores(report: Mapping[str, Any]) -> None:
    """Print scores with intervals, below each the change against the base, and gaps, in 80 columns."""
    modalities = list_modalities(report)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="scores, percent, 95 % intervals", title_justify="left")
    table.add_column("benchmark, model", overflow="fold")
    for heading in list_headings(report):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for benchmark, model, *cells in iterate_rows(report, modalities):
        if before not in (None, benchmark):
            table.add_section()
        table.add_row(f"{benchmark}\n  {model}", *(cell.replace(" (", "\n").rstrip(")") for cell in cells))
        before = benchmark
    Console().print(table)
    for note in list_gaps_in_scores(report):
        print(note)
    for line in report.get("judge_free", []):
        print(f"{line['model']}, {line['name']}: {describe_nats(line)} nats per response token")
    for line in report.get("spoken_answers", []):
        print(f"{line['model']}: word error rate of spoken against written answers, percent: {describe(line)}")
    for name, missing in report.get("not_scored", {}).items():
        print(f"{name} is not scored: it needs {missing}")


def list_gaps_in_scores(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each score that leaves out answers, or holds questions that could not be asked."""
    notes = []
    for line in report["scores"]:
        if line["group"] == ALL and "value" in line:
            place = f"{line['benchmark']}, {line['model']}, {line['modality']}"
            if missing := line["answers"] - line["scored"]:
                notes.append(
                    f"{place}: {missing} of {line['answers']} answers have no score (not judged), and are left out."
                )
            if line["health"]["refused"]:
                notes.append(
                    f"{place}: {line['health']['refused']:g} % of the questions could not be asked, and count as wrong."
                )
    return notes


def describe_nats(line: Line) -> str:
    """Return a divergence with its interval, and the change against the base."""
    text = f"{line['value']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"
    change = line.get("change")
    return text if change is None else f"{text} ({change['value']:+.3f} [{change['low']:.3f}, {change['high']:.3f}])"


def write_markdown(report: Mapping[str, Any]) -> str:
    """Return the same table in Markdown."""
    modalities = list_modalities(report)
    headings = ["benchmark", "model", *list_headings(report)]
    lines = [f"| {' | '.join(headings)} |", f"|---|---|{'---|' * (len(headings) - 2)}"]
    lines += [f"| {' | '.join(map(escape, row))} |" for row in iterate_rows(report, modalities)]
    notes = [f"{name}: {facts['note']}." for name, facts in report["benchmarks"].items() if facts["note"]]
    notes += [f"{name} is not scored: it needs {missing}." for name, missing in report.get("not_scored", {}).items()]
    notes += list_gaps_in_scores(report)
    protocol = report["settings"]["protocol"]
    notes += [
        f"{line['name']} of {line['model']}: {describe_nats(line)} nats per response token."
        for line in report.get("judge_free", [])
    ]
    notes.insert(0, f"Percent, with 95 % bootstrap intervals over questions; protocol {protocol}; gap = text - speech.")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def escape(cell: str) -> str:
    """Return a cell's text for a Markdown table."""
    return cell.replace("|", "\\|")


def iterate_rows(report: Mapping[str, Any], modalities: Sequence[str]) -> Iterator[list[str]]:
    """Yield the cells of every row: benchmarks, then overall scores."""
    keys = dict.fromkeys(
        (line["benchmark"], line["model"], line["condition"]) for line in report["scores"] if line["group"] == ALL
    )
    for benchmark, model, condition in keys:
        place = {"model": model, "condition": condition}
        cells = []
        for modality in modalities:
            here = {"benchmark": benchmark, "modality": modality, "group": ALL, **place}
            change = find_line(report["differences"], kind="change", **here)
            cells.append(describe(find_line(report["scores"], **here), change))
        gap = find_line(report["differences"], kind="gap", benchmark=benchmark, group=ALL, **place)
        name = f"{benchmark}, {condition}" if condition else benchmark
        yield [name, model, *cells, *([describe(gap)] if has_gap(report) else [])]
    for name, model in dict.fromkeys((line["name"], line["model"]) for line in report["overall"]):
        found = [find_line(report["overall"], name=name, model=model, modality=m, condition="") for m in modalities]
        yield [name, model, *map(describe, found), *([""] if has_gap(report) else [])]


def describe(line: Line | None, change: Line | None = None) -> str:
    """Return a value with its interval, and the change against the base."""
    if line is None or "value" not in line:
        return "not scored" if line is not None else ""
    text = f"{line['value']:.1f} [{line['low']:.1f}, {line['high']:.1f}]"
    return text if change is None else f"{text} ({change['value']:+.1f} [{change['low']:.1f}, {change['high']:.1f}])"


def list_modalities(report: Mapping[str, Any]) -> list[str]:
    """Return the modalities that were asked in."""
    there = {line["modality"] for line in report["scores"]}
    return [modality for modality in MODALITY_ORDER if modality in there]


def list_headings(report: Mapping[str, Any]) -> list[str]:
    """Return the headings of the columns with figures."""
    return [*list_modalities(report), *(["gap"] if has_gap(report) else [])]


def has_gap(report: Mapping[str, Any]) -> bool:
    """Tell whether any text score can be compared with a speech score."""
    return any(line["kind"] == "gap" for line in report["differences"])


def make_model_index(report: Mapping[str, Any], model: str) -> list[EvalResult]:
    """Return the scores of one model over all items, for `ModelCardData.eval_results`."""
    results = []
    for line in report["scores"]:
        if line["model"] != model or line["group"] != ALL or line["condition"] or "value" not in line:
            continue
        facts = report["benchmarks"][line["benchmark"]]
        results.append(
            EvalResult(
                task_type="audio-text-to-text",
                dataset_type=facts["source"],
                dataset_name=line["benchmark"],
                dataset_config=facts["config"],
                metric_type=facts["evaluator"],
                metric_name=f"{facts['evaluator']}, {line['modality']}, protocol {report['settings']['protocol']}",
                metric_value=line["value"],
            )
        )
    return results
