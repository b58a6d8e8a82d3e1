"""JSON files that this project has written, read with the expectation that something has damaged them since."""

import json
from pathlib import Path
from typing import Any


def read_json(file: Path, way_out: str) -> Any:
    """Return the content of a JSON file.

    Args:
        way_out: what to do where it is damaged.

    Raises:
        ValueError: it is damaged; names the file.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}): {way_out}") from error


def read_object(file: Path, way_out: str, **types: type) -> dict[str, Any]:
    """Return a JSON object that has at least some keys; see `read_json`.

    Args:
        types: key -> type of its value.
    """
    content = read_json(file, way_out)
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged (it is no object): {way_out}")
    if wrong := [key for key, kind in types.items() if not isinstance(content.get(key), kind)]:
        raise ValueError(f"{file} is damaged (no {', '.join(wrong)}): {way_out}")
    return content
