"""Questions in, a data set of pairs on disk out: prompts -> targets -> speech -> dataset.

Every stage asks the journal first, so a second run does no work, a killed run goes on where it was, and a new voice
redoes speech alone. The finished folder appears by one rename and is named by the hash of all it was made from.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import soundfile
from datasets import Dataset, DatasetDict, DatasetInfo, load_dataset, load_from_disk
from transformers import AutoConfig, PreTrainedModel

from data_builders.journal import Journal, content_key
from data_builders.prompts import Prompt, load_prompts
from data_builders.schema import FEATURES, make_row_id
from data_builders.speech import choose_voice, speak_questions
from data_builders.targets import answer_prompts


@dataclass
class DataArguments:
    """Where the pairs come from: a finished data set, or questions to make one of."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A finished data set: a folder of `save_to_disk` or a Hub id. Unset: built from `prompts`."
        },
    )
    prompts: str | None = field(
        default=None,
        metadata={"help": "Questions: a JSONL, CSV or Parquet file, or a `datasets` id."},
    )
    data_dir: str = field(
        default="outputs/data",
        metadata={"help": "Where built data sets and the journal of finished work live."},
    )
    speech_engine: str = field(
        default="espeak", metadata={"help": "Which engine speaks the questions."}
    )
    train_voices: list[str] = field(
        default_factory=lambda: ["en-us"],
        metadata={"help": "Voices of the training rows, in the engine's own words."},
    )
    test_voices: list[str] = field(
        default_factory=lambda: ["en-gb-x-rp"],
        metadata={"help": "Voices of the test rows; each speaks every test question."},
    )
    takes_per_question: int = field(
        default=1, metadata={"help": "Recordings of each training question, each by another voice."}
    )
    answer_max_new_tokens: int = field(
        default=256,
        metadata={
            "help": "Longest answer of the teacher and of the student under test, in tokens."
        },
    )

    def __post_init__(self) -> None:
        if (self.dataset_name is None) == (self.prompts is None):
            raise ValueError(
                "set one of `dataset_name` (a finished data set) and `prompts` (questions to build from)"
            )
        if not 1 <= self.takes_per_question <= len(self.train_voices):
            raise ValueError(
                f"takes_per_question is {self.takes_per_question}, but there are "
                f"{len(self.train_voices)} train_voices: the takes of a question never share a voice"
            )
        if shared := set(self.train_voices) & set(self.test_voices):
            raise ValueError(
                f"voices {sorted(shared)} are in both train_voices and test_voices; keep them apart"
            )


def load_pairs(
    arguments: DataArguments,
    teacher_name_or_path: str | None,
    teacher_revision: str = "main",
    load_teacher: Callable[[], PreTrainedModel] | None = None,
    teacher_precision: str = "",
) -> DatasetDict:
    """The data set a run trains on, and is tested on where it has a split `test`; speech undecoded.

    Args:
        load_teacher: see `answer_prompts`; called only if an answer is missing.
        teacher_precision: of a teacher that is not read whole ("in 4-bit"), whose answers are not the whole one's.

    Raises:
        ValueError: it has no split `train`.
    """
    if arguments.dataset_name is None:
        folder = build_pairs(
            arguments, teacher_name_or_path, teacher_revision, load_teacher, teacher_precision
        )
        return load_from_disk(str(folder))
    on_disk = Path(arguments.dataset_name).is_dir()
    loaded = (load_from_disk if on_disk else load_dataset)(arguments.dataset_name)
    if not isinstance(loaded, DatasetDict) or "train" not in loaded:
        raise ValueError(
            f"{arguments.dataset_name} has no split 'train'; save it as a DatasetDict with one"
        )
    if "speech" in loaded["train"].column_names:
        return loaded.cast_column("speech", FEATURES["speech"])
    return loaded


def build_pairs(
    arguments: DataArguments,
    teacher_name_or_path: str | None,
    teacher_revision: str = "main",
    load_teacher: Callable[[], PreTrainedModel] | None = None,
    teacher_precision: str = "",
) -> Path:
    """Build the data set unless it is there; returns its folder."""
    if teacher_name_or_path is None:
        raise ValueError(
            "building a data set from `prompts` needs `teacher_model_name_or_path`, who answers them"
        )
    assert arguments.prompts is not None
    prompts = load_prompts(arguments.prompts)
    teacher_identity = identify_model(teacher_name_or_path, teacher_revision)
    teacher_identity = f"{teacher_identity} {teacher_precision}".rstrip()
    settings = {
        key: value
        for key, value in vars(arguments).items()
        if key not in ("data_dir", "dataset_name")
    }
    root = Path(arguments.data_dir)
    folder = root / content_key(prompts, teacher_identity, {**settings, "prompts": None})[:16]
    if folder.exists():
        return folder
    journal = Journal(root / "journal.sqlite")
    try:
        answers = answer_prompts(
            prompts,
            journal,
            teacher_name_or_path,
            teacher_identity,
            arguments.answer_max_new_tokens,
            revision=teacher_revision,
            load_model=load_teacher,
        )
        takes = [take for prompt, answer in zip(prompts, answers, strict=True) if answer for take in
                 record_takes(prompt, answer, teacher_identity, arguments)]  # fmt: skip
        if cut := sum(answer is None for answer in answers):
            print(
                f"{cut} of {len(prompts)} questions left out: the teacher did not end its answer in time"
            )
        clips = speak_questions(
            [(row["question"], row["voice"]) for _, row in takes], journal, arguments.speech_engine
        )
    finally:
        journal.close()
    splits: dict[str, list[dict[str, Any]]] = {}
    for (split, row), clip in zip(takes, clips, strict=True):
        seconds = soundfile.info(io.BytesIO(clip)).duration
        splits.setdefault(split, []).append(
            {**row, "speech": {"bytes": clip, "path": None}, "speech_seconds": seconds}
        )
    return save_aside_then_rename(
        DatasetDict({split: make_dataset(rows) for split, rows in splits.items()}), folder
    )


def record_takes(
    prompt: Prompt, answer: str, teacher: str, arguments: DataArguments
) -> list[tuple[str, dict[str, Any]]]:
    """The rows of one question, one a recording, with the split they belong to; clips are still to be made."""
    if prompt["split"] == "train":
        voices = [
            choose_voice(arguments.train_voices, prompt["question"], take)
            for take in range(arguments.takes_per_question)
        ]
    else:
        voices = arguments.test_voices
    shared = {key: value for key, value in prompt.items() if key != "split"}
    return [
        (
            prompt["split"],
            {
                **shared,
                "id": make_row_id(prompt["source"], prompt["question"], take),
                "teacher_response": answer,
                "teacher": f"{teacher}, greedy, at most {arguments.answer_max_new_tokens} tokens",
                "voice": voice,
                "speech_engine": arguments.speech_engine,
            },
        )
        for take, voice in enumerate(voices)
    ]


def make_dataset(rows: list[dict[str, Any]]) -> Dataset:
    """Rows as a `Dataset` of the contract's schema, the clips' bytes taken as they are."""
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    return Dataset(table, info=DatasetInfo(features=FEATURES))


def save_aside_then_rename(dataset: DatasetDict, folder: Path) -> Path:
    """Save under another name beside `folder`, then rename: the folder is whole or not there."""
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    dataset.save_to_disk(str(aside))
    try:
        aside.rename(folder)
    except OSError:  # another process finished the same data set first
        if not folder.exists():
            raise
        shutil.rmtree(aside)
    return folder


def identify_model(name_or_path: str, revision: str = "main") -> str:
    """`id@commit` of a Hub model, or the name of a local folder with the hash of its weights."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        # What is in the cache counts when there is no network.
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
        return f"{name_or_path}@{config._commit_hash}"
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no safetensors weights")
    for file in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"{folder.name}@{digest.hexdigest()[:12]}"
