"""The pairs that a run trains on: a finished data set, or one that is built from questions first."""

from dataclasses import replace
from pathlib import Path

from datasets import Dataset, DatasetDict

from data_builders.answers.fingerprint import fingerprint_teacher
from data_builders.arguments import (
    AnswerArguments,
    BuildSettings,
    DataArguments,
    PipelineArguments,
    QuestionArguments,
    SpeechArguments,
    VerificationArguments,
)
from data_builders.causal_lm import TeacherSettings
from data_builders.pipeline.build import build_dataset, fingerprint_build
from data_builders.questions.filter import TextCheck
from data_builders.speech.verification import NO_RECOGNIZER
from data_builders.storage.dataset_folder import load_dataset_folder


def load_pairs(
    arguments: DataArguments,
    teacher: TeacherSettings | None,
    text_check: TextCheck | None = None,
    max_rejected_share: float = 1.0,
) -> DatasetDict:
    """Load the data set that a run trains on, and is evaluated on where it has a split `test`; speech undecoded.

    Args:
        teacher: the model that answers questions without a data set; loaded only if an answer is missing.
        text_check: a check of such questions before the teacher answers; None for none.
        max_rejected_share: of such questions; more dropped ones are an error.

    Raises:
        ValueError: there is no split `train`, or not the recording to train on.
    """
    name = locate_pairs(arguments, teacher, text_check, max_rejected_share)
    return read_pairs(name, arguments.speech_column, arguments.dataset_revision)


def locate_pairs(
    arguments: DataArguments,
    teacher: TeacherSettings | None,
    text_check: TextCheck | None = None,
    max_rejected_share: float = 1.0,
) -> str:
    """Return the named data set, or the folder of one that is built here; arguments as in `load_pairs`."""
    return arguments.dataset_name or str(build_pairs(arguments, teacher, text_check, max_rejected_share))


def read_pairs(name: str, speech_column: str = "speech", revision: str | None = None) -> DatasetDict:
    """Load a data set by its folder or Hub id; see `load_pairs`."""
    loaded = load_dataset_folder(name, revision)
    if not isinstance(loaded, DatasetDict) or "train" not in loaded:
        raise ValueError(f"{name} has no split 'train'; save it as a DatasetDict with one")
    if speech_column != "speech":
        if speech_column not in loaded["train"].column_names:
            raise ValueError(
                f"{name} has no column {speech_column!r}: build it with `augmentations`, or leave speech_column alone"
            )
        loaded["train"] = use_speech_column(loaded["train"], speech_column)
    return loaded


def use_speech_column(dataset: Dataset, column: str) -> Dataset:
    """Replace `speech` by another recording of the same length."""
    return dataset.remove_columns("speech").rename_column(column, "speech")


def build_pairs(
    arguments: DataArguments,
    teacher: TeacherSettings | None,
    text_check: TextCheck | None = None,
    max_rejected_share: float = 1.0,
) -> Path:
    """Build the data set of a run that starts from questions: all of them, unverified, in a folder named by content."""
    if teacher is None:
        raise ValueError("building a data set from `questions` needs `teacher_model_name_or_path`, which answers them")
    settings = BuildSettings(
        QuestionArguments(
            questions=arguments.questions,
            filter_unspeakable=False,
            max_rejected_share=max_rejected_share,
            test_share=arguments.test_share,
        ),
        AnswerArguments(
            teacher_model_name_or_path=teacher.name_or_path,
            teacher_model_revision=teacher.revision,
            teacher_dtype=teacher.dtype,  # type: ignore[arg-type]  # a dtype is accepted too
            teacher_load_in_4bit=teacher.load_in_4bit,
            teacher_device_map=teacher.device_map,
            answer_max_new_tokens=arguments.answer_max_new_tokens,
        ),
        SpeechArguments(
            speech_engine=arguments.speech_engine,
            train_voices=arguments.train_voices,
            test_voices=arguments.test_voices,
            recordings_per_question=arguments.recordings_per_question,
        ),
        VerificationArguments(recognizer=NO_RECOGNIZER),
        PipelineArguments(cache_dir=arguments.cache_dir),
    )
    key = fingerprint_build(settings, fingerprint_teacher(settings.answers), text_check)
    assert arguments.questions is not None
    output_dir = str(Path(arguments.cache_dir) / f"{Path(arguments.questions).stem}-{key}")
    folder = build_dataset(settings._replace(pipeline=replace(settings.pipeline, output_dir=output_dir)), text_check)
    assert folder is not None
    return folder
