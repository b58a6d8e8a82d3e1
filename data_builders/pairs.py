"""The pairs that a run trains on: a finished data set, or one that is made of questions on the way."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, DatasetDict

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.arguments import BuildArguments, DataArguments, PairArguments
from data_builders.pipeline.build import build_dataset, fingerprint_build
from data_builders.storage.dataset_folder import load_dataset_folder

if TYPE_CHECKING:  # transformers is needed only to answer
    from transformers import PreTrainedModel


def load_pairs(
    arguments: DataArguments,
    teacher_name_or_path: str | None,
    teacher_revision: str = "main",
    load_teacher: "Callable[[], PreTrainedModel] | None" = None,
    teacher_precision: str = "",
) -> DatasetDict:
    """The data set a run trains on, and is tested on where it has a split `test`; speech undecoded.

    Args:
        load_teacher: how it is loaded, where it does not fit whole into memory; called only if an answer is missing.
        teacher_precision: of a teacher that is not read whole ("in 4-bit"), whose answers are not the whole one's.

    Raises:
        ValueError: it has no split `train`, or not the recording that is to be heard.
    """
    name = arguments.dataset_name
    if name is None:
        name = str(
            build_pairs(
                arguments, teacher_name_or_path, teacher_revision, load_teacher, teacher_precision
            )
        )
    loaded = load_dataset_folder(name)
    if not isinstance(loaded, DatasetDict) or "train" not in loaded:
        raise ValueError(f"{name} has no split 'train'; save it as a DatasetDict with one")
    if arguments.speech_column != "speech":
        if arguments.speech_column not in loaded["train"].column_names:
            raise ValueError(
                f"{name} has no column {arguments.speech_column!r}: build it with `noise`, or leave speech_column alone"
            )
        loaded["train"] = use_speech_column(loaded["train"], arguments.speech_column)
    return loaded


def use_speech_column(dataset: Dataset, column: str) -> Dataset:
    """The data set with another recording in the place of `speech`; both are of one length."""
    return dataset.remove_columns("speech").rename_column(column, "speech")


def build_pairs(
    arguments: PairArguments,
    teacher_name_or_path: str | None,
    teacher_revision: str = "main",
    load_teacher: "Callable[[], PreTrainedModel] | None" = None,
    teacher_precision: str = "",
) -> Path:
    """The data set of a run that starts from questions: all of them, unchecked, in a folder named by content."""
    if teacher_name_or_path is None:
        raise ValueError(
            "building a data set from `questions` needs `teacher_model_name_or_path`, who answers them"
        )
    shared = {field.name: getattr(arguments, field.name) for field in fields(PairArguments)}
    build = BuildArguments(
        **shared,
        filter_unspeakable=False,
        recognizer="none",
        teacher_model_name_or_path=teacher_name_or_path,
        teacher_model_revision=teacher_revision,
    )
    teacher = (
        f"{fingerprint_model(teacher_name_or_path, teacher_revision)} {teacher_precision}".rstrip()
    )
    build.output_dir = str(Path(arguments.cache_dir) / fingerprint_build(build, teacher))
    folder = build_dataset(build, teacher, load_teacher)
    assert folder is not None
    return folder
