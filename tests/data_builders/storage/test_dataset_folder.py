"""Tests that a data set is read as what it is: its types, its own clips, whatever its folder is called."""

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Value

from data_builders.storage.dataset_folder import load_dataset_folder

ODD_NAME = "b[1] x*ü 'q'"


def make_rows(**columns) -> DatasetDict:
    """Return two rows of the schema; `columns` replace some of them."""
    rows = {"id": ["a", "b"], "question": ["A?", "B?"], "channels": [["t2t"], ["s2t"]], "speech_seconds": [1.0, 2.0]}
    return DatasetDict({"train": Dataset.from_dict(rows | columns)})


@pytest.mark.parametrize("built", [True, False])
def test_a_folder_may_have_any_name(tmp_path, built):
    """Prevents: a name with brackets read as a pattern, which finds other files or none."""
    folder = tmp_path / ODD_NAME
    if built:
        (folder / "data").mkdir(parents=True)
        make_rows()["train"].to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    else:
        make_rows().save_to_disk(folder)
    assert load_dataset_folder(str(folder))["train"]["id"] == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "values"),
    [("channels", ["t2t", "s2t"]), ("id", [1, 2]), ("speech_seconds", ["1", "2"]), ("question", [["A"], ["B"]])],
)
def test_a_column_of_another_type_is_named(tmp_path, column, values):
    """Prevents: a TypeError without a name from inside a check, or "t2t" read as the channels t, 2 and t."""
    make_rows(**{column: values}).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=f"split train: column {column} has the type .* and is to be"):
        load_dataset_folder(str(tmp_path / "set"))


def test_types_that_hold_the_same_values_are_read(tmp_path):
    """Prevents: refusing what pandas and polars write."""
    rows = make_rows(question=[None, None])["train"]
    for column, dtype in (("id", "large_string"), ("speech_seconds", "float64")):
        rows = rows.cast_column(column, Value(dtype))
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "set")
    assert load_dataset_folder(str(tmp_path / "set"))["train"]["speech_seconds"] == [1.0, 2.0]


def test_a_clip_outside_of_the_data_set_is_refused(tmp_path):
    """Prevents: a data set of others that has any file of this machine read, trained on and pushed."""
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for path, is_inside in ((folder / "a.wav", True), (folder / ".." / "secret.wav", False), ("/dev/zero", False)):
        rows = make_rows(speech=[{"bytes": b"", "path": None}, {"bytes": None, "path": str(path)}])["train"]
        pq.write_table(rows.data.table, folder / "data" / "train-00000-of-00001.parquet")
        if is_inside:
            assert len(load_dataset_folder(str(folder))["train"]) == 2
        else:
            with pytest.raises(ValueError, match=r"1 rows name a file outside the data set(.|\n)*row 1 names the file"):
                load_dataset_folder(str(folder))
