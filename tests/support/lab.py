"""Paths of the tiny lab, and small sets of its questions."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAB = ROOT / "recipes" / "tiny_lab"
STUDENT, TEACHER = str(LAB / "student"), str(LAB / "teacher")


def write_every(step: int, file: Path) -> Path:
    """Write every `step`-th question of the lab; all families, train and test."""
    lines = (LAB / "questions.jsonl").read_text().splitlines()[::step]
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def write_questions(file: Path, questions: list[str | dict]) -> Path:
    """Write questions, or rows of a JSONL file."""
    rows = [question if isinstance(question, dict) else {"question": question} for question in questions]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
