"""Tests of benchmarks in their published layouts: splits, columns, nested features, audio encodings."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.published_sets import (
    read_clips,
    write_big_bench_audio,
    write_mmar,
    write_mmau,
    write_voicebench,
)
from trainer_ext.evaluation.answering import select_asked
from trainer_ext.evaluation.benchmarks.base import build_item, load_benchmark
from trainer_ext.evaluation.benchmarks.own_data import make_mapped_benchmark, make_pairs_benchmark
from trainer_ext.evaluation.benchmarks.registry import BENCHMARKS, OVERALL, find_benchmarks
from trainer_ext.evaluation.benchmarks.voicebench import ACCENTS, DOMAINS
from trainer_ext.evaluation.evaluators.base import EVALUATORS
from trainer_ext.evaluation.items import MODALITIES


@pytest.fixture(scope="module")
def rows(pairs):
    """Return rows of four questions."""
    return list({row["question"]: row for row in pairs["test"]}.values())[:4]


@pytest.fixture(scope="module")
def clips(rows):
    return read_clips(rows)


@pytest.fixture(scope="module")
def voicebench(rows, clips, tmp_path_factory):
    return str(write_voicebench(tmp_path_factory.mktemp("sets") / "voicebench", rows, clips))


def test_every_benchmark_names_what_exists():
    """Prevents: an evaluator or a modality that a rename has broken, found after hours of answers."""
    for benchmark in BENCHMARKS.values():
        assert benchmark.evaluator in EVALUATORS
        assert set(benchmark.modalities) <= set(MODALITIES)
    assert len(find_benchmarks(["voicebench"])) == 9
    for subsets in OVERALL.values():
        find_benchmarks([f"voicebench/{subset}" for subset in subsets])
    assert [len(subsets) for subsets in OVERALL.values()] == [9, 7]
    with pytest.raises(ValueError, match="unknown 'voicebanch'; known are voicebench, voicebench/alpaca"):
        find_benchmarks(["voicebanch"])


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name.startswith("voicebench/")])
def test_a_subset_of_voicebench_loads_in_its_published_layout(voicebench, clips, name):
    """Prevents: a column or split by another name, or a clip that only torchcodec could read."""
    loaded = load_benchmark(BENCHMARKS[name], voicebench)
    splits = {"sd-qa": ACCENTS, "mmsu": DOMAINS}.get(name.split("/")[1], ("test",))
    assert len(loaded.items) == len(splits) * len(clips)
    assert len({item.id for item in loaded.items}) == len(loaded.items)
    spoken = select_asked(loaded, "speech")
    assert len(spoken) == len(loaded.items)
    assert spoken[-1].to_row()["speech"]["bytes"][:4] == b"RIFF"
    written = select_asked(loaded, "text")
    assert len(written) == len(clips)  # an accent changes nothing in writing
    item = loaded.items[0]
    if name.endswith("ifeval"):
        assert item.details["kwargs"][1]["num_words"] == 3
    if name.endswith("bbh"):
        assert {item.group for item in loaded.items} == {
            "sports_understanding", "hyperbaton", "navigate", "web_of_lies",
        }  # fmt: skip
    if name.endswith("sd-qa"):
        assert {item.group for item in loaded.items} == set(ACCENTS)


def test_both_versions_of_mmau_give_the_same_questions(clips, tmp_path):
    """Prevents: letters before the choices that count as words, and JSON choices read as one string."""
    original, revised = write_mmau(tmp_path, clips)
    loaded = [
        load_benchmark(BENCHMARKS["mmau_mini_original"], str(original)),
        load_benchmark(BENCHMARKS["mmau_mini_v05.15.25"], str(revised)),
    ]
    for benchmark in loaded:
        assert len(select_asked(benchmark, "audio")) == len(clips)  # equal words, other clips
        assert [item.group for item in benchmark.items][:3] == ["sound", "music", "speech"]
        assert benchmark.items[0].reference == "A cat"
        assert benchmark.items[0].question.startswith("What is heard?\n(A) A dog\n(B) A cat")
    assert loaded[0].items[0].question == loaded[1].items[0].question


def test_mmar_and_big_bench_audio_load_from_files(clips, tmp_path):
    """Prevents: clips that are looked for elsewhere than beside their rows."""
    loaded = load_benchmark(BENCHMARKS["mmar"], str(write_mmar(tmp_path / "mmar", clips)))
    assert select_asked(loaded, "audio")[1].to_row()["speech"]["path"].endswith("audio/1.wav")
    loaded = load_benchmark(BENCHMARKS["big_bench_audio"], str(write_big_bench_audio(tmp_path / "bba", clips)))
    assert [item.reference for item in loaded.items] == ["Yes"] * len(clips)
    assert len(select_asked(loaded, "speech")) == len(clips)
    with pytest.raises(ValueError, match=r"give a copy by --benchmark_folders mmar=PATH.*MMAR-meta.jsonl"):
        load_benchmark(BENCHMARKS["mmar"])


def test_a_row_names_no_file_outside_its_folder(clips, tmp_path):
    """Prevents: a stranger's data set that reads any file of this machine."""
    file = write_mmar(tmp_path / "mmar", clips[:1])
    row = json.loads(file.read_text())
    (tmp_path / "secret.wav").write_bytes(b"RIFF")
    file.write_text(json.dumps({**row, "audio_path": "../secret.wav"}) + "\n")
    with pytest.raises(ValueError, match=r"there is no file \.\./secret\.wav in this folder"):
        load_benchmark(BENCHMARKS["mmar"], str(file))


def test_what_is_missing_is_named_with_what_there_is(voicebench):
    """Prevents: a traceback of datasets, or a KeyError, for a split or a column that has another name."""
    mmsu = BENCHMARKS["voicebench/mmsu"]
    with pytest.raises(ValueError, match=r"has no split 'test' in mmsu; it has law, engineering"):
        load_benchmark(dataclasses.replace(mmsu, splits=("test",)), voicebench)
    with pytest.raises(ValueError, match=r"has no config 'mtbench'; it has"):
        load_benchmark(dataclasses.replace(mmsu, config="mtbench"), voicebench)
    with pytest.raises(ValueError, match=r"has no column 'answer'; it has prompt, reference, audio"):
        load_benchmark(dataclasses.replace(mmsu, columns=("prompt", "answer")), voicebench)
    with pytest.raises(ValueError, match="--benchmark_folders voicebench=FOLDER"):
        load_benchmark(dataclasses.replace(mmsu, source="nobody/nothing"))


def test_only_the_first_items_of_every_split(voicebench):
    """Prevents: a quick look that reads one domain alone."""
    loaded = load_benchmark(BENCHMARKS["voicebench/mmsu"], voicebench, max_items=2)
    assert len(loaded.items) == 2 * len(DOMAINS)


def test_any_data_set_is_asked_by_a_mapping_of_its_columns(rows, clips, tmp_path):
    """Prevents: a harness for four published sets alone."""
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f"{json.dumps({'q': row['question'], 'a': 7, 'k': n})}\n" for n, row in enumerate(rows)))
    columns = {"question": "q", "reference": "a", "id": "k"}
    benchmark = make_mapped_benchmark(str(file), None, "test", columns, "exact_answer", 32)
    loaded = load_benchmark(benchmark)
    assert benchmark.modalities == ("text",)
    assert [(item.id, item.reference) for item in loaded.items] == [(str(n), "7") for n in range(len(rows))]
    for columns, problem in [
        ({"prompt": "q"}, "unknown prompt; known are question"),
        ({"reference": "a"}, "name the column of the question"),
        ({"audio": "x"}, "`audio` is what a `question`"),
    ]:
        with pytest.raises(ValueError, match=problem):
            make_mapped_benchmark(str(file), None, "test", columns, "exact_answer", 32)


def test_recordings_of_a_question_are_one_question(pairs):
    """Prevents: a text score that counts a question once per voice, and voices as independent questions."""
    loaded = make_pairs_benchmark(pairs["test"], "lab", "exact_answer", 24)
    assert len(select_asked(loaded, "text")) == len(set(pairs["test"]["question"]))
    assert len(select_asked(loaded, "speech")) == len(pairs["test"])
    assert len({item.question_id for item in loaded.items}) == len(set(pairs["test"]["question"]))


def test_a_changed_copy_is_read_anew(rows, clips, tmp_path):
    """Prevents: the items of yesterday's copy, which datasets keeps under the same name."""
    for count in (4, 2):
        write_voicebench(tmp_path / "copy", rows[:count], clips[:count])
        assert len(load_benchmark(BENCHMARKS["voicebench/commoneval"], str(tmp_path / "copy")).items) == count


def test_a_cell_names_no_file_outside_the_data_set(clips, tmp_path):
    """Prevents: a stranger's Parquet file that sends a file of this machine to a server, or into a page."""
    original, _ = write_mmau(tmp_path / "sets", clips)
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"RIFF")
    file = original / "data" / "test_mini-00000-of-00001.parquet"
    table = pq.read_table(file)
    cells = [{"bytes": None, "path": str(secret)}, *table["audio"].to_pylist()[1:]]
    column = pa.array(cells, type=table.schema.field("audio").type)
    pq.write_table(table.set_column(table.schema.get_field_index("audio"), table.schema.field("audio"), column), file)
    with pytest.raises(ValueError, match=r"1 rows name a file outside(.|\n)*row 0 names the file .*secret\.wav"):
        load_benchmark(BENCHMARKS["mmau_mini_original"], str(original))


def test_a_data_set_needs_neither_voices_nor_references(pairs):
    """Prevents: a data set that could be trained on, and fails when its held-out rows are asked."""
    loaded = make_pairs_benchmark(pairs["test"].remove_columns(["voice", "reference"]), "lab", "word_overlap", 24)
    assert loaded.items[0].reference is None


def test_equal_words_with_other_choices_are_two_questions():
    """Prevents: a question that is never asked, because another has its words and its letter."""
    asked = {"question": "Which one?", "reference": "A"}
    benchmark = BENCHMARKS["voicebench/openbookqa"]
    made = dataclasses.replace(benchmark, make_item=lambda row: {**asked, "choices": row["choices"]})
    items = [build_item(made, {"choices": choices}, "test", n) for n, choices in enumerate((["x", "y"], ["x", "z"]))]
    assert items[0].question_id != items[1].question_id
