"""The first sixty questions of a person: right ones, typing errors, other scripts, code, control strings, mistakes."""

import json
from pathlib import Path

_READ = json.loads(Path(__file__).with_suffix(".json").read_text())
RIGHT: list[str] = _READ["right"]
# Reason -> the questions that it sets aside.
WRONG: dict[str, list[str]] = {**_READ["wrong"], "too_long": [" ".join(["word"] * 3_000)]}
QUESTIONS = [*RIGHT, *(question for questions in WRONG.values() for question in questions)]
