"""A report on the Hub: as a card of its own, and as scores in the card of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, SpaceCardData

from data_builders.hub.contents import Contents
from data_builders.hub.requests import PushRefused
from data_builders.storage.json_files import read_object
from trainer_ext.evaluation.tables import make_model_index, write_markdown
from trainer_ext.hub.folders import PAGES, hide_places

BEFORE_SECTION = "## Use\n"
TEXT = """---
{data}
---

# Answers in text and speech

Each question is asked in writing and by voice, and every answer can be read and heard on the page of this Space.
Made by `recipes/eval_speech.py` of crossmodal-kd {version}.

{table}
"""


def read_report(folder: Path) -> dict[str, Any]:
    """Return the content of report.json, without places of this machine.

    Raises:
        PushRefused: there is none.
    """
    file = folder / "report.json"
    if not file.is_file():
        raise PushRefused(f"{folder} has no report.json: name a folder of recipes/eval_speech.py")
    return hide_places(read_object(file, "evaluate again"))


def make_report_card(folder: Path) -> str:
    """Return the card of a report: a static Space that shows its page."""
    report = read_report(folder)
    contents = Contents("report", ", ".join(report["benchmarks"]))
    page = next((name for name in PAGES if (folder / name).is_file()), PAGES[0])
    data = SpaceCardData(
        title="Answers in text and speech",
        sdk="static",
        app_file=page,
        tags=["cross-modal-distillation", "speech"],
        **contents.to_metadata(),
    )
    version = report["harness"]["version"]
    return TEXT.format(data=data.to_yaml(), version=version, table=write_markdown(report))


def add_report(card_text: str, folder: Path, model: str | None = None) -> str:
    """Return the card of a model with a report's scores, as a table and as its model-index.

    Args:
        model: its label in the report; None for the one that is not the base.

    Raises:
        PushRefused: the report has several such models, or none of this label.
    """
    report = read_report(folder)
    label = choose_model(report, model)
    card = ModelCard(card_text)
    results = make_model_index(report, label)
    title = next((line[2:] for line in card.text.splitlines() if line.startswith("# ")), "model")
    ours = {(result.dataset_name, result.metric_name) for result in results}
    others = [r for r in card.data.get("eval_results") or [] if (r.dataset_name, r.metric_name) not in ours]
    card.data["eval_results"] = [*others, *results]
    card.data["model_name"] = card.data.get("model_name") or title
    section = f"## Evaluation of `{label}`\n\n{write_markdown(report)}\n"
    before, found, after = card.text.partition(BEFORE_SECTION)
    card.text = f"{before}{section}{found}{after}" if found else f"{card.text}\n{section}"
    return str(card)


def choose_model(report: Mapping[str, Any], model: str | None) -> str:
    """Return the label of the model that a card is about."""
    labels = list(dict.fromkeys(line["model"] for line in report["scores"]))
    candidates = [label for label in labels if label not in ("base", "before", "teacher")]
    if model is None and len(candidates) == 1:
        return candidates[0]
    if model is None or model not in labels:
        raise PushRefused(f"the report has {', '.join(labels)}: name one of them by --report_model")
    return model
