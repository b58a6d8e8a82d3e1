"""A benchmark: which data set, which splits and columns, how a question is asked, which evaluator scores it.

The data are read with the clips undecoded, checked against the published columns, and turned into items.
"""

import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import (
    Audio,
    Dataset,
    Value,
    concatenate_datasets,
    get_dataset_config_names,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import snapshot_download

from data_builders.schema import SPEECH_RATE_HZ
from data_builders.storage.atomic import hash_file
from data_builders.storage.call_cache import content_key
from data_builders.storage.clip_paths import check_clip_paths
from trainer_ext.evaluation.items import Item

Row = Mapping[str, Any]
CLIP = "clip"  # the column of the loaded clips
LOADERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".arrow": "arrow"}
SPEECH_FEATURE = Audio(sampling_rate=SPEECH_RATE_HZ, decode=False)


@dataclass(frozen=True)
class Benchmark:
    """A data set as items.

    Attributes:
        name: of the registry, unlike that of any other set ("voicebench/mmsu").
        source: Hub id of the data set; a folder with a copy may take its place.
        revision: of the source.
        config: of the data set; None for its only one.
        splits: to load; each is a group of the report unless the items say otherwise.
        modalities: names of MODALITIES.
        evaluator: a name of EVALUATORS.
        audio_column: the clips; None for text alone.
        columns: further columns that `make_item` reads.
        make_item: row, position in its split -> the item's fields that the row decides.
        data_files: split -> files, where the data set's own layout does not name its splits.
        max_new_tokens: longest answer.
        note: what a reader of its score must know.
        folder_hint: for a data set that `datasets` cannot load from the Hub, which file of it to name.
        own: one's own data, which `dataset_name` names.
        metadata: the file of rows of an audio folder, which `datasets` reads only with torchcodec.
    """

    name: str
    source: str
    splits: tuple[str, ...]
    modalities: tuple[str, ...]
    evaluator: str
    make_item: Callable[[Row], dict[str, Any]]
    columns: tuple[str, ...]
    audio_column: str | None = "audio"
    config: str | None = None
    revision: str | None = None
    data_files: Mapping[str, str] = field(default_factory=dict)
    max_new_tokens: int = 1024
    note: str = ""
    folder_hint: str = ""
    own: bool = False
    metadata: str | None = None

    @property
    def copy_option(self) -> str:
        """Return the argument that names a copy to read instead."""
        return "--dataset_name FOLDER" if self.own else f"--benchmark_folders {self.name.split('/')[0]}=FOLDER"


@dataclass(frozen=True)
class LoadedBenchmark:
    """Items and, in the same order, their clips.

    Attributes:
        condition: "" for the clips as they are, or what `change_clip` does to them.
        change_clip: undecoded clip, item -> another clip.
    """

    benchmark: Benchmark
    items: list[Item]
    clips: Dataset | None
    condition: str = ""
    change_clip: Callable[[dict[str, Any], Item], dict[str, Any]] | None = None

    @cached_property
    def clip_hashes(self) -> list[str]:
        """A hash of each item's clip before it is changed."""
        if self.clips is None:
            return [""] * len(self.items)
        return [hash_clip(row[CLIP]) for row in self.clips]

    def read_clip(self, position: int) -> dict[str, Any] | None:
        """Return the undecoded clip of an item."""
        if self.clips is None:
            return None
        clip = self.clips[position][CLIP]
        return clip if self.change_clip is None else self.change_clip(clip, self.items[position])


def hash_clip(clip: Mapping[str, Any] | None) -> str:
    """Return a hash of an undecoded clip: of its bytes or its file's, or else the path that it names."""
    if clip is None:
        return ""
    if clip["bytes"] is not None:
        return hashlib.sha256(clip["bytes"]).hexdigest()[:16]
    return hash_file(Path(clip["path"]))[:16] if Path(clip["path"]).is_file() else str(clip["path"])


def load_benchmark(benchmark: Benchmark, folder: str | None = None, max_items: int | None = None) -> LoadedBenchmark:
    """Load a benchmark's items.

    Args:
        folder: a copy of the data set, instead of the Hub's.
        max_items: of every split, the first ones; None for all.

    Raises:
        ValueError: the data set, a split or a column is missing; lists what there is.
    """
    items: list[Item] = []
    clips: list[Dataset] = []
    source = find_source(benchmark, folder)
    for split in benchmark.splits:
        rows = load_split(benchmark, source, split)
        check_columns(benchmark, split, rows.column_names)
        if max_items is not None:
            rows = rows.select(range(min(max_items, len(rows))))
        text = rows.select_columns([name for name in rows.column_names if name in benchmark.columns])
        items += [build_item(benchmark, dict(row), split, number) for number, row in enumerate(text)]
        if benchmark.audio_column is not None:
            clips.append(take_clips(rows, benchmark.audio_column, source))
    if twice := len(items) - len({item.id for item in items}):
        raise ValueError(f"{benchmark.name}: {twice} items have the id of another")
    return LoadedBenchmark(benchmark, items, concatenate_datasets(clips) if clips else None)


def find_source(benchmark: Benchmark, folder: str | None) -> str:
    """Return what to load: the Hub's data set, a folder or a file.

    Raises:
        ValueError: a copy has to be given.
    """
    if benchmark.folder_hint and folder is None:
        raise ValueError(
            f"{benchmark.name}: give a copy by --benchmark_folders {benchmark.name}=PATH, where PATH is "
            f"{benchmark.folder_hint}"
        )
    source = folder or benchmark.source
    if benchmark.metadata is None:
        return source
    if folder is None:
        source = snapshot_download(source, repo_type="dataset", revision=benchmark.revision)
    file = Path(source) / benchmark.metadata
    if not file.is_file():
        raise ValueError(f"{benchmark.name}: there is no {benchmark.metadata} in {source}")
    return str(file)


def take_clips(rows: Dataset, column: str, source: str) -> Dataset:
    """Return the clips alone, undecoded; paths beside a file of rows are read from its folder."""
    clips = rows.select_columns([column])
    if column != CLIP:
        clips = clips.rename_column(column, CLIP)
    if isinstance(clips.features[CLIP], Value):
        root = (Path(source).parent if Path(source).is_file() else Path(source)).absolute()
        clips = Dataset.from_dict({CLIP: [resolve_path(root, path) for path in clips[CLIP]]})
        return clips.cast_column(CLIP, SPEECH_FEATURE)
    clips = clips.cast_column(CLIP, SPEECH_FEATURE)
    check_clip_paths(clips, CLIP, source)
    return clips


def resolve_path(root: Path, path: str) -> str:
    """Return the file that a row names.

    Raises:
        ValueError: it is not in the folder of the rows, or not there.
    """
    file = Path(os.path.normpath(root / path))  # links are followed: the Hub's cache is made of them
    if not file.is_relative_to(root) or not file.is_file():
        raise ValueError(f"{root}: there is no file {path} in this folder, which a row names as its clip")
    return str(file)


def load_split(benchmark: Benchmark, source: str, split: str) -> Dataset:
    """Load one split, clips undecoded."""
    if Path(source).is_file():
        return load_files(benchmark, source, split, [source])
    options: dict[str, Any] = {}
    if benchmark.data_files:
        options["data_files"] = dict(benchmark.data_files)
    if benchmark.revision is not None and source == benchmark.source:
        options["revision"] = benchmark.revision
    try:
        if not Path(source).is_dir():
            return load_dataset(source, benchmark.config, split=split, **options)
        files = load_dataset_builder(source, benchmark.config, **options).config.data_files
        if files is None or split not in files:
            raise ValueError("there is no such split")
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"{benchmark.name}: the data set {source} cannot be reached ({error}). Give a copy by "
            f"{benchmark.copy_option}"
        ) from error
    except ValueError as error:  # an unknown config or split
        raise ValueError(f"{benchmark.name}: {describe_missing(benchmark, source, split, options, error)}") from error
    # Named one by one: of a folder, datasets would take what it has cached under that name, changed files or not.
    return load_files(benchmark, source, split, [str(file) for file in files[split]])


def load_files(benchmark: Benchmark, source: str, split: str, files: list[str]) -> Dataset:
    """Load local files of one kind.

    Raises:
        ValueError: they are of another kind.
    """
    kind = LOADERS.get(Path(files[0]).suffix)
    if kind is None:
        raise ValueError(f"{benchmark.name}: {source} holds none of {', '.join(LOADERS)}")
    return load_dataset(kind, data_files={split: [glob.escape(file) for file in files]}, split=split)


def describe_missing(benchmark: Benchmark, source: str, split: str, options: dict[str, Any], error: ValueError) -> str:
    """Return which config or split is missing, and those that there are."""
    revision = options.get("revision")
    try:
        configs = get_dataset_config_names(source, revision=revision)
        if benchmark.config is not None and benchmark.config not in configs:
            return f"{source} has no config {benchmark.config!r}; it has {', '.join(configs)}"
        splits = get_dataset_split_names(source, benchmark.config, revision=revision)
        if split not in splits:
            return f"{source} has no split {split!r} in {benchmark.config or 'its config'}; it has {', '.join(splits)}"
    except (ValueError, OSError):
        pass
    return f"{source} cannot be loaded: {' '.join(str(error).split())}"


def check_columns(benchmark: Benchmark, split: str, there: list[str]) -> None:
    """Raise ValueError for a missing column; lists those that there are."""
    wanted = [*benchmark.columns, *([benchmark.audio_column] if benchmark.audio_column else [])]
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(
            f"{benchmark.name}: split {split!r} has no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(there)}"
        )


def build_item(benchmark: Benchmark, row: Row, split: str, number: int) -> Item:
    """Build an item; without an id of its own it is known by split and number, without a question's by its words."""
    values = {"group": split, "question": "", "system": "", **benchmark.make_item(row)}
    own_id = str(values.pop("id", number))
    values.setdefault("id", own_id if len(benchmark.splits) == 1 else f"{split}/{own_id}")
    # Recordings of one question share its words; where the clip is part of the question, equal words mean nothing.
    is_words = values["question"] and "audio" not in benchmark.modalities
    described = ("system", "question", "reference", "choices")
    words = [values.get(name) for name in described] if is_words else [values["id"]]
    values["question_id"] = content_key(*words)[:16]
    values["choices"] = tuple(values.get("choices", ()))
    return Item(benchmark=benchmark.name, **values)


def read_choices(value: Any) -> list[str]:
    """Return the choices of a row, which some data sets keep as JSON in a string."""
    choices = json.loads(value) if isinstance(value, str) else value
    return [str(choice) for choice in choices]


LETTERED = tuple(f"({letter})" for letter in "ABCDEFGHIJ")


def strip_letter(choice: str) -> str:
    """Remove the letter before a choice: "(A) Man" is "Man"."""
    return choice[3:].strip() if choice.startswith(LETTERED) else choice
