"""Clips that a data set stores as paths: a data set of others could name any file of this machine."""

import os
from pathlib import Path

import datasets
import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub.constants import HF_HUB_CACHE

from data_builders.outcomes import list_rows


def check_clip_paths(dataset: Dataset, column: str, source: str) -> None:
    """Raise ValueError, naming the rows, for clips outside of the data set and of the caches of datasets and the Hub.

    Args:
        column: undecoded audio.
        source: folder, file or Hub id of the data set.
    """
    cells = dataset.select_columns(column).with_format("arrow")[:][column]
    named = pc.and_(pc.is_null(pc.struct_field(cells, "bytes")), pc.is_valid(pc.struct_field(cells, "path")))
    roots = [Path(source).absolute(), Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)]
    outside = []
    for number in pc.indices_nonzero(named).to_pylist():
        path = cells[number]["path"].as_py()
        place = Path(os.path.normpath(Path(path).absolute()))  # links are followed: the Hub's cache is made of them
        if not any(place.is_relative_to(root) for root in roots):
            outside.append(f"row {number} names the file {path} as its {column}")
    if outside:
        raise ValueError(
            f"{source}: {len(outside)} rows name a file outside the data set, which is never read. Store the clips in "
            f"the data set: `to_parquet` and `push_to_hub` of datasets do{list_rows(outside)}"
        )
