"""Tests of questions about sounds among the pairs of a run."""

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Value, concatenate_datasets

from data_builders.sounds.rows import add_sounds, keep_sounds, write_split
from data_builders.storage.dataset_folder import COLUMNS, load_dataset_folder


def make_rows(kind: str, count: int, channels: list[str]) -> Dataset:
    rows = [dict.fromkeys(COLUMNS) | {"id": f"{kind}-{n}", "channels": channels} for n in range(count)]
    return Dataset(pa.Table.from_pylist(rows, schema=COLUMNS.arrow_schema))


@pytest.fixture
def pairs():
    return DatasetDict(train=make_rows("pair", 90, ["t2t", "s2t"]), test=make_rows("held", 5, ["t2t", "s2t"]))


@pytest.fixture
def sounds():
    return DatasetDict(train=make_rows("sound", 40, ["a2t"]), test=make_rows("heard", 7, ["a2t"]))


def count_sounds(rows: Dataset) -> int:
    return sum(channels == ["a2t"] for channels in rows["channels"])


def test_a_share_of_the_training_rows_asks_about_sounds(pairs, sounds):
    """Prevents: a share of the pairs, or of the sounds, under the name of a share of all rows."""
    mixed = add_sounds(pairs, sounds, 0.1)
    assert (count_sounds(mixed["train"]), len(mixed["train"])) == (10, 100)
    assert count_sounds(mixed["test"]) == 7
    assert count_sounds(add_sounds(pairs, sounds, None)["train"]) == 40


def test_a_larger_share_has_the_sounds_of_a_smaller_one(pairs, sounds):
    """Prevents: two shares that differ in which sounds they have, and a choice by the order of the rows."""

    def chosen(data, share):
        return {row_id for row_id in add_sounds(pairs, data, share)["train"]["id"] if row_id.startswith("sound")}

    shuffled = DatasetDict(train=sounds["train"].select(range(39, -1, -1)))
    assert chosen(sounds, 0.1) < chosen(sounds, 0.2)
    assert chosen(sounds, 0.1) == chosen(shuffled, 0.1) != {f"sound-{n}" for n in range(10)}


def test_a_run_without_the_channel_is_tested_by_sounds_alone(pairs, sounds):
    """Prevents: sounds that train a channel which the run does not have."""
    mixed = add_sounds(pairs, sounds, 0.1, train=False)
    assert count_sounds(mixed["train"]) == 0
    assert count_sounds(mixed["test"]) == 7


def test_too_large_a_share_is_refused_with_the_largest_possible_one(pairs, sounds):
    """Prevents: fewer sounds than asked for, without a word."""
    with pytest.raises(ValueError, match=r"set at most 0\.308"):
        add_sounds(pairs, sounds, 0.5)
    assert count_sounds(add_sounds(pairs, sounds, 0.307)["train"]) == 40


def test_pairs_in_a_data_set_of_sounds_are_left_out(pairs, sounds):
    """Prevents: questions of somebody's pairs among those that a run is measured by."""
    both = DatasetDict({name: concatenate_datasets([pairs[name], sounds[name]]) for name in pairs})
    kept = keep_sounds(both)
    assert {name: len(rows) for name, rows in kept.items()} == {"train": 40, "test": 7}
    with pytest.raises(ValueError, match="no row of its split train has the channels"):
        keep_sounds(pairs)
    with pytest.raises(ValueError, match="has no column audio, audio_seconds"):
        keep_sounds(DatasetDict(train=sounds["train"].remove_columns(["audio", "audio_seconds"])))


def test_types_that_hold_the_same_values_are_joined(pairs, sounds):
    """Prevents: an error of a library about columns of other data, which a run with either of them does not have."""
    other = {"wer": Value("float64"), "question": Value("large_string"), "speech_seconds": Value("int64")}
    for name, feature in other.items():
        pairs["train"] = pairs["train"].cast_column(name, feature)
    mixed = add_sounds(pairs, keep_sounds(sounds), None)
    assert mixed["train"].features == COLUMNS
    assert len(mixed["train"]) == 130


def test_a_written_split_is_read_as_a_data_set(tmp_path, sounds):
    """Prevents: columns that the reader does not know, or a file name that hides the split."""
    count, files = write_split(tmp_path, "train", [{"id": "a", "question": "What is it?", "channels": ["a2t"]}])
    assert (count, list(files)) == (1, ["data/train-00000-of-00001.parquet"])
    loaded = load_dataset_folder(str(tmp_path))["train"]
    assert loaded[0]["question"] == "What is it?"
    assert loaded.features == COLUMNS
