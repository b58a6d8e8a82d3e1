"""One self-contained HTML page: every item with its clip, the answers of all models, and their scores.

What people and models wrote is text there: it travels as JSON and is shown by `textContent`. The page loads nothing.
"""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import soundfile

from data_builders.audio import decode_speech
from data_builders.outcomes import Rejected
from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.atomic import write_atomic
from trainer_ext.evaluation.scoring import Cell, Results, Scored
from trainer_ext.evaluation.tables import MODALITY_ORDER

TEMPLATE = Path(__file__).with_name("page_template.html")
PLACE = "__DATA__"
BLOCK = 10 * SPEECH_RATE_HZ
MAX_ITEMS = 2_000  # with clips of a few seconds, 20 MB

ReadClip = Callable[[str, str], dict[str, Any] | None]  # benchmark, item id -> undecoded clip


def write_page(
    file: Path,
    results: Results,
    read_clip: ReadClip,
    base: str | None,
    pictures: Sequence[Path] = (),
    about: str = "",
    max_items: int = MAX_ITEMS,
) -> None:
    """Write the page of the items whose score changes most, up to a number."""
    items = collect_items(results)
    kept = sorted(items.values(), key=lambda item: -largest_change(item))[:max_items]
    for order, item in enumerate(items.values()):
        item["order"] = order
    for item in kept:
        item["clip"] = encode_clip(read_clip(item["benchmark"], item["id"]), item["id"])
    modalities = {cell.modality for cell in results}
    left_out = f" The {max_items} of {len(items)} items whose scores differ most." if len(items) > len(kept) else ""
    content = {
        "items": kept,
        "models": list(dict.fromkeys(cell.model for cell in results)),
        "modalities": [name for name in MODALITY_ORDER if name in modalities],
        "base": base,
        "figures": [{"name": p.name, "png": base64.b64encode(p.read_bytes()).decode()} for p in pictures],
        "about": about + left_out,
    }
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")  # no tag of an answer ends the script
    write_atomic(file, TEMPLATE.read_text(encoding="utf-8").replace(PLACE, data, 1).encode())


def collect_items(results: Results) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the items of all cells, by benchmark and id; every recording of a question shows its written answers."""
    items: dict[tuple[str, str], dict[str, Any]] = {}
    written: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell, scored in results.items():
        for entry in scored:
            item = entry.answered.item
            answer = describe_answer(cell, entry)
            if cell.modality == "text":
                written.setdefault((cell.benchmark, item.question_id), []).append(answer)
            place = items.setdefault(
                (cell.benchmark, item.id),
                {
                    "id": item.id, "benchmark": cell.benchmark, "group": item.group, "question": item.question,
                    "reference": item.reference, "question_id": item.question_id, "answers": [],
                },
            )  # fmt: skip
            if cell.modality != "text":
                place["answers"].append(answer)
    for (benchmark, _), place in items.items():
        place["answers"] = [*written.get((benchmark, place.pop("question_id")), []), *place["answers"]]
    return items


def describe_answer(cell: Cell, entry: Scored) -> dict[str, Any]:
    """Return what the page shows of an answer."""
    answer, score = entry.answered.answer, entry.score
    shown: dict[str, Any] = {
        "model": cell.model, "modality": cell.modality, "condition": cell.condition, "text": answer.text,
        "finish": answer.finish_reason, "detail": answer.detail, "score": None,
    }  # fmt: skip
    if not isinstance(score, Rejected):
        shown |= {
            "score": round(score.share, 4), "read_as": score.read_as, "unreadable": score.unreadable,
            "guessed": score.guessed,
        }  # fmt: skip
    return shown


def largest_change(item: dict[str, Any]) -> float:
    """Return the largest difference between two models' scores of one item in one modality."""
    scores: dict[str, list[float]] = {}
    for answer in item["answers"]:
        if answer["score"] is not None:
            scores.setdefault(answer["modality"], []).append(answer["score"])
    return max((max(values) - min(values) for values in scores.values()), default=0.0)


def encode_clip(cell: dict[str, Any] | None, item_id: str) -> str | None:
    """Return a clip as Ogg Vorbis in base64; None for no clip, or an unreadable one.

    A third of FLAC's size. Opus would take half of that and ten times as long to encode (45 ms for 1.4 s of speech).
    """
    if cell is None:
        return None
    try:
        samples = decode_speech(cell, item_id)
    except ValueError:
        return None
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", SPEECH_RATE_HZ, 1, format="OGG", subtype="VORBIS", compression_level=0.8
    ) as encoder:
        for start in range(0, len(samples), BLOCK):  # libsndfile keeps a whole call on its stack: 160 s crash it
            encoder.write(samples[start : start + BLOCK])
    return base64.b64encode(file.getvalue()).decode()
