"""Tests of figures, tables, pictures and the page of a report."""

import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from data_builders.audio import encode_speech
from data_builders.outcomes import Rejected
from tests.support.answered import answered
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings
from trainer_ext.evaluation.items import REFUSED, one_part
from trainer_ext.evaluation.page import PLACE, TEMPLATE, write_page
from trainer_ext.evaluation.plots import plot_report, plot_training
from trainer_ext.evaluation.report import make_report, write_report
from trainer_ext.evaluation.scoring import Cell, Scored, read_scores, score_cells, write_scores
from trainer_ext.evaluation.summary import ALL, summarize
from trainer_ext.evaluation.tables import find_line, make_model_index, show_scores, write_markdown

HOSTILE = "</script><script>alert(1)</script> & \u2028 | <b>bold</b>"
FACTS = {
    "source": "here",
    "config": None,
    "evaluator": "exact_answer",
    "items": 40,
    "note": "a note",
    "splits": ["test"],
}


def scored(points, modality, number, group="g", text="answer"):
    entry = answered(text, number=number, modality=modality, group=group)
    return Scored(entry, points if isinstance(points, Rejected) else one_part(points))


@pytest.fixture
def results():
    """Forty questions in two groups: the adapter gains in speech; text is equal; the teacher has text alone."""
    made = {}
    for model, speech in (("base", 0.3), ("adapter", 0.8)):
        for modality in ("text", "speech"):
            cell = Cell("bench", model, modality)
            share = 0.9 if modality == "text" else speech
            made[cell] = [scored(float(n % 10 < 10 * share), modality, n, "ab"[n % 2]) for n in range(40)]
    made[Cell("bench", "teacher", "text")] = [scored(1.0, "text", n, "ab"[n % 2]) for n in range(40)]
    return made


@pytest.fixture
def report(results):
    figures = summarize(results, "base", {"both": ["bench"]})
    models = {"base": {}, "adapter": {}, "teacher": {}}
    return make_report(figures, models, {"bench": FACTS}, EvaluatorSettings(), {"other": "a judge"}, robustness=[])


def test_scores_gaps_and_changes_are_paired_by_question(report):
    """Prevents: a gap between other questions, and a change whose interval holds zero because nothing was paired."""
    speech = find_line(report["scores"], model="adapter", modality="speech", group=ALL)
    assert speech["value"] == 80
    gap = find_line(report["differences"], kind="gap", model="base", group=ALL)
    assert (gap["value"], gap["questions"]) == (60, 40)
    change = find_line(report["differences"], kind="change", model="adapter", modality="speech", group=ALL)
    assert change["value"] == 50
    assert change["low"] > 30
    assert find_line(report["differences"], kind="change", model="adapter", modality="text", group=ALL)["high"] == 0
    assert {line["group"] for line in report["scores"]} == {"a", "b", ALL}
    assert find_line(report["overall"], name="both", model="base", modality="text")["value"] == 90
    assert find_line(report["overall"], name="both", model="teacher", modality="speech") is None


def test_what_was_not_judged_is_no_zero(results):
    """Prevents: a failed judge that lowers a score, or an overall of the benchmarks that happen to be scored."""
    cell = Cell("bench", "base", "speech")
    results[cell][0] = scored(Rejected("scores", "not_judged", "HTTP 500"), "speech", 0, "a")
    figures = summarize(results, "base", {"both": ["bench", "missing"]})
    line = find_line(figures["scores"], model="base", modality="speech", group=ALL)
    assert (line["answers"], line["scored"]) == (40, 39)
    assert line["value"] == pytest.approx(100 * 11 / 39, abs=1e-3)
    assert figures["overall"] == []


def test_every_table_shows_the_same_figures(report, tmp_path, capsys):
    """Prevents: different numbers in terminal, card and JSON."""
    write_report(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    markdown = (tmp_path / "report.md").read_text()
    assert re.search(r"\| bench \| adapter \| 90\.0 \[.*\] \(\+0\.0 .*\| 80\.0 \[.*\] \(\+50\.0 \[", markdown)
    assert "other is not scored: it needs a judge" in markdown
    assert "protocol voicebench" in markdown
    show_scores(report)
    said = capsys.readouterr().out
    assert "80.0 [" in said
    assert "+50.0 [" in said
    assert max(map(len, said.splitlines())) <= 80
    index = make_model_index(report, "adapter")
    assert [entry.metric_value for entry in index] == [90, 80]
    assert report["harness"]["libraries"]["torch"]


def test_a_name_cannot_break_the_table(report):
    """Prevents: a model's folder name with a bar that shifts every column."""
    report["scores"][0]["model"] = "a|b"
    for line in report["scores"]:
        line["model"] = "a|b"
    rows = [line for line in write_markdown(report).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_pictures_are_written_for_what_there_is(report, results, tmp_path):
    """Prevents: a picture that fails at the end of a night, or an empty one."""
    report["robustness"] = [
        {"benchmark": "bench", "model": "base", "condition": f"noise {db} dB", "snr_db": db, "value": 50 + db,
         "low": 0, "high": 99}
        for db in (0.0, 10.0)
    ]  # fmt: skip
    names = {file.name for file in plot_report(tmp_path, report, results)}
    assert names == {"scores.png", "gaps.png", "lengths.png", "robustness.png"}
    plot_training(tmp_path / "loss.png", [{"step": s, "t2t/ce": 1 / s, "eval_s2t/kl": 1 / s} for s in (1, 2, 3)])
    for file in tmp_path.glob("*.png"):
        with Image.open(file) as picture:
            assert min(picture.size) > 300


def read_data(file):
    """Return the JSON of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    return json.loads(found[1])


def test_the_page_holds_what_was_written_as_text(results, pairs, tmp_path):
    """Prevents: an answer that runs as a script in the page of whoever opens it."""
    cell = Cell("bench", "base", "speech")
    results[cell][3] = scored(0.0, "speech", 3, HOSTILE, HOSTILE)
    clip = pairs["test"][0]["speech"]
    write_page(tmp_path / "index.html", results, lambda *_: clip, "base", about=HOSTILE)
    page = (tmp_path / "index.html").read_text()
    assert page.count("</script>") == TEMPLATE.read_text().count("</script>")
    assert PLACE not in page
    assert not re.search(r"https?://", page)
    assert "default-src 'none'" in page
    assert "innerHTML" not in page
    item = next(item for item in read_data(tmp_path / "index.html")["items"] if item["id"] == "i3")
    assert HOSTILE in [answer["text"] for answer in item["answers"]]
    assert item["clip"]


def test_a_recording_shows_the_written_answers_of_its_question(tmp_path):
    """Prevents: a voice beside which nobody sees what the model answers in writing."""
    written, first, second = (
        Scored(answered("a", modality=m, id=i, question_id="q"), one_part(p))
        for m, i, p in (("text", "v1", 1), ("speech", "v1", 1), ("speech", "v2", 0))
    )
    results = {Cell("bench", "base", "text"): [written], Cell("bench", "base", "speech"): [first, second]}
    write_page(tmp_path / "index.html", results, lambda *_: None, None)
    items = read_data(tmp_path / "index.html")["items"]
    assert [[answer["modality"] for answer in item["answers"]] for item in items] == [["text", "speech"]] * 2


def test_a_long_report_keeps_the_items_that_differ_most(results, tmp_path):
    """Prevents: a page of a gigabyte, or one without the regressions."""
    results[Cell("bench", "base", "speech")][39] = scored(1.0, "speech", 39, "b")
    results[Cell("bench", "adapter", "speech")][39] = scored(0.0, "speech", 39, "b")
    write_page(tmp_path / "index.html", results, lambda *_: {"bytes": b"broken", "path": None}, "base", max_items=24)
    data = read_data(tmp_path / "index.html")
    assert len(data["items"]) == 24
    assert "i39" in {item["id"] for item in data["items"]}
    assert "24 of 40 items" in data["about"]
    assert all(item["clip"] is None for item in data["items"])


def test_a_clip_stays_as_long_as_it_was(tmp_path, results):
    """Prevents: a compressed clip without its end."""
    samples = np.sin(np.arange(20_000) / 20).astype(np.float32) / 2
    clip = {"bytes": encode_speech(samples), "path": None}
    write_page(tmp_path / "index.html", results, lambda *_: clip, "base", max_items=1)
    encoded = base64.b64decode(read_data(tmp_path / "index.html")["items"][0]["clip"])
    decoded, rate_hz = soundfile.read(io.BytesIO(encoded))
    assert rate_hz == 16_000
    assert len(decoded) == len(samples)


def test_a_question_that_could_not_be_asked_has_no_points(tmp_path):
    """Prevents: full marks for refusing harmful requests, of a model that could not be asked; and lucky guesses."""
    for name, values in (("refusal", {}), ("multiple_choice", {}), ("exact_answer", {})):
        cell = Cell("test", "model", "speech")
        answers = {
            cell: [answered("I cannot help", number=0, **values), answered("", number=1, finish=REFUSED, **values)]
        }
        results = score_cells(answers, {"test": name}, EvaluatorSettings())
        refused = results[cell][1].score
        assert refused.parts == {"score": (0.0, 1.0)}
        assert not refused.guessed
    report = make_report(summarize(results, None, {}), {}, {"test": FACTS}, EvaluatorSettings(), {})
    assert "50 % of the questions could not be asked, and count as wrong" in write_markdown(report)


def test_scores_are_read_as_they_were_written(results, tmp_path):
    """Prevents: a report that is made anew from other scores than those of the file."""
    cell = Cell("bench", "base", "speech")
    results[cell][0] = scored(Rejected("scores", "not_judged", "HTTP 500"), "speech", 0, "a")
    write_scores(tmp_path / "scores.jsonl", results)
    answers = {cell: [entry.answered for entry in entries] for cell, entries in results.items()}
    assert read_scores(tmp_path / "scores.jsonl", answers) == results
    with pytest.raises(ValueError, match="run the stage `scores` first"):
        read_scores(tmp_path / "nothing.jsonl", answers)


def test_a_written_answer_counts_in_every_group_with_a_recording_of_its_question():
    """Prevents: no gap by accent, or one of a single question: a question is asked once in writing, in one group."""
    written = [scored(float(n < 3), "text", n, "aus") for n in range(4)]
    spoken = [scored(0.0, "speech", n, group) for n in range(4) for group in ("aus", "zaf")]
    figures = summarize({Cell("b", "m", "text"): written, Cell("b", "m", "speech"): spoken}, None, {})
    gaps = {line["group"]: line["value"] for line in figures["differences"] if line["kind"] == "gap"}
    assert gaps == {"aus": 75, "zaf": 75, ALL: 75}
    answers = {line["group"]: line["answers"] for line in figures["scores"] if line["modality"] == "text"}
    assert answers == {"aus": 4, "zaf": 4, ALL: 4}


def test_a_clip_of_five_minutes_does_not_end_the_process(tmp_path, results):
    """Prevents: a crash of the sound library on one long clip, after everything else was done."""
    samples = np.sin(np.arange(300 * 16_000) / 20).astype(np.float32) / 2
    clip = {"bytes": encode_speech(samples), "path": None}
    write_page(tmp_path / "index.html", results, lambda *_: clip, "base", max_items=1)
    assert read_data(tmp_path / "index.html")["items"][0]["clip"]
