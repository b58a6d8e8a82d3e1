"""The files of a Space: the app, its arguments, the packages that it imports, and the scores that it shows."""

from pathlib import Path

import yaml
from huggingface_hub import SpaceCardData

from data_builders.hub.contents import Contents
from trainer_ext.hub.folders import PAGES, SPACE

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_builders", "trainer_ext")
PACKAGE_FILES = (".py", "_template.md", "_template.html", ".json")
TEXT = """---
{data}
---

# {title}

Ask in writing or by voice: the base model and [{adapter}](https://huggingface.co/{adapter}) on it answer side by side.
Made by `recipes/push.py` of crossmodal-kd; its arguments are in space.yaml. A Space with a GPU is needed for a student
of some billion parameters.
"""


def make_space_card(adapter: str, title: str) -> str:
    """Return the card of a Space that shows an adapter of the Hub."""
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        app_file="app.py",
        models=[adapter],
        tags=["cross-modal-distillation", "speech"],
        **Contents(SPACE.name, adapter).to_metadata(),
    )
    return TEXT.format(data=data.to_yaml(), title=title, adapter=adapter)


def list_space_files(adapter: str, revision: str | None, report: Path | None) -> dict[str, Path | bytes]:
    """Return what a Space needs besides the app, by its path there.

    Args:
        adapter: on the Hub.
        report: a folder with report.md and a page of answers; None for a Space without scores.
    """
    arguments = {"adapter": adapter, "adapter_revision": revision, "server_name": "0.0.0.0", "report": None}
    files: dict[str, Path | bytes] = {}
    if report is not None:
        arguments["report"] = "report"
        for name in ("report.md", *PAGES):
            if (report / name).is_file():
                files[f"report/{Path(name).name}"] = report / name
    stated = {name: value for name, value in arguments.items() if value is not None}
    files["space.yaml"] = yaml.safe_dump(stated).encode()
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*")):
            if file.is_file() and file.name.endswith(PACKAGE_FILES):
                files[file.relative_to(ROOT).as_posix()] = file
    return files
