"""What a data set is made of and with, as fields of YAML files and command lines."""

from dataclasses import dataclass, field
from typing import Any

from data_builders.schema import CHANNELS

EXECUTORS = ("local", "slurm", "ray")


def option(default: Any, help: str) -> Any:
    """A field with its line of help; lists are copied."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class PairArguments:
    """Questions, who speaks them, and how long answers may be."""

    questions: str | None = option(
        None, "Questions: a JSONL, CSV or Parquet file, or a `datasets` id, which is streamed."
    )
    cache_dir: str = option(
        "outputs/data", "Where the journals of finished answers, clips and checks live."
    )
    speech_engine: str = option(
        "espeak", "Who speaks: espeak, server (any OpenAI-compatible one) or pocket."
    )
    train_voices: list[str] = option(
        ["en-us"], "Voices of the training rows, in the engine's own words."
    )
    test_voices: list[str] = option(
        ["en-gb-x-rp"], "Voices of the test rows; each speaks every test question."
    )
    recordings_per_question: int = option(
        1, "Recordings of each training question, each by another voice."
    )
    answer_max_new_tokens: int = option(
        256, "Longest answer of the teacher and of the student under test, in tokens."
    )

    def __post_init__(self) -> None:
        if not 1 <= self.recordings_per_question <= len(self.train_voices):
            raise ValueError(
                f"recordings_per_question is {self.recordings_per_question}, but there are "
                f"{len(self.train_voices)} train_voices: the takes of a question never share a voice"
            )
        if shared := set(self.train_voices) & set(self.test_voices):
            raise ValueError(
                f"voices {sorted(shared)} are in both train_voices and test_voices; keep them apart"
            )


@dataclass
class DataArguments(PairArguments):
    """Where a run's pairs come from: a finished data set, or questions to make one of."""

    dataset_name: str | None = option(
        None,
        "A finished data set: a folder of build_data.py or `save_to_disk`, or a Hub id. Unset: built from `questions`.",
    )
    speech_column: str = option(
        "speech", "Which recording the student hears in training: speech or noisy_speech."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.questions = self.questions or None  # --questions "" unsets what a config says
        if (self.dataset_name is None) == (self.questions is None):
            raise ValueError(
                "set one of `dataset_name` (a finished data set) and `questions` (questions to build from)"
            )
        if self.speech_column not in ("speech", "noisy_speech"):
            raise ValueError(f"speech_column is speech or noisy_speech, got {self.speech_column!r}")


@dataclass
class BuildArguments(PairArguments):
    """A data set, from questions to checked speech."""

    output_dir: str = option(
        "outputs/data/built", "The finished data set: parquet, card, pictures, manifest."
    )

    # Which questions
    questions_split: str = option("train", "Split of a `datasets` id.")
    questions_revision: str | None = option(None, "Revision of a `datasets` id.")
    columns: list[str] = option(
        [], "Where a field has another name in the source: system=system_prompt."
    )
    sample_fraction: float = option(
        1.0,
        "Share of the source that is looked at, chosen by hash: 0.05 of a source in sorted order.",
    )
    max_rows: int | None = option(
        None, "Questions to keep; the source is read until there are so many."
    )
    filter_unspeakable: bool = option(
        True,
        "Drop what cannot be spoken, and near duplicates. Unset: take every question as it is.",
    )
    max_words: int = option(60, "Longest question, in words.")
    max_seconds: float = option(25.0, "Longest question, in estimated seconds of speech.")
    near_duplicates: float = option(
        0.8, "Drop a question that shares this much (Jaccard, words and pairs) with an earlier one."
    )
    channel_shares: list[str] = option(
        [],
        "Which channels rows train, by share: [t2t=22456, s2t=44753], or both=1. With `max_rows` the counts are exact. "
        "Unset: as the source's `channels` say, or both.",
    )
    seed: int = option(0, "Of sampling, channels and noise.")
    max_shard_size: str = option("500MB", "Size of a parquet shard, the unit of work.")

    # Who answers
    teacher_model_name_or_path: str | None = option(
        None, "Who answers. Unset: nobody; rows keep the answer they came with."
    )
    teacher_model_revision: str = option("main", "Revision of the teacher.")
    teacher_dtype: str = option("auto", "Precision of a teacher in memory.")
    teacher_device_map: str | None = option(None, "Where a teacher in memory lies: auto, cuda:0.")
    teacher_base_url: str | None = option(
        None,
        "An OpenAI-compatible server that has the teacher, for instance http://localhost:8000/v1.",
    )
    answer_batch_size: int = option(
        16, "Questions a teacher in memory answers at a time, or requests in flight at a server."
    )

    # Who speaks
    speech_base_url: str | None = option(
        None, "With speech_engine server: its URL, for instance http://localhost:8001/v1."
    )
    speech_model: str = option("", "Which model of the server, or of the engine, speaks.")
    speech_concurrency: int = option(4, "Requests in flight at a speech server.")
    noise: list[str] = option(
        [], "What noisy_speech goes through, in order: room, noise, phone. Unset: there is none."
    )
    noise_snr_db: list[float] = option(
        [5.0, 20.0], "Signal-to-noise ratio of `noise`: lowest and highest."
    )

    # Who listens
    recognizer: str = option(
        "pocketsphinx", "Who hears every clip: pocketsphinx (pocketsphinx), whisper or none."
    )
    recognizer_model: str = option("openai/whisper-large-v3-turbo", "Which Whisper.")
    max_wer: float = option(
        0.5, "Highest word error rate of a kept clip. 0.1 with Whisper (TARS, arXiv 2601.05543)."
    )
    similarity_model: str | None = option(
        None, "A sentence-transformers model that compares what was heard with the question."
    )
    min_similarity: float = option(0.7, "Lowest similarity of a kept clip.")

    # Where it is done
    workers: int = option(1, "Processes on this machine.")
    shard: str = option(
        "0/1",
        "i/N: this machine's share of the shards, every machine with as many workers; once without it finishes.",
    )
    executor: str = option("local", "datatrove's executor: local, slurm or ray.")
    slurm_partition: str = option("gpu", "With executor slurm.")
    slurm_time: str = option("24:00:00", "With executor slurm, of one task.")
    task_cpus: int = option(1, "With executor slurm or ray, of one of the `workers`.")
    task_memory_gb: int = option(8, "Likewise.")
    task_gpus: int = option(0, "Likewise.")
    skip_failed: bool = option(
        False, "Finish without the rows that an engine or a server failed on time and again."
    )
    retry_failed: bool = option(
        False, "Ask again for the rows of a finished data set that failed or were refused."
    )

    # Where it goes
    save_to_disk: str | None = option(
        None, "Write it as Arrow files too, as `datasets.save_to_disk` does."
    )
    push_to_hub: bool = option(False, "Push the finished data set.")
    hub_dataset_id: str | None = option(None, "Where to: user/name.")
    hub_private_repo: bool = option(False, "Create it private.")
    licenses: list[str] = option(
        [], "Licenses of what went in, for the card: Open-Orca/OpenOrca=mit."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions is None:
            raise ValueError("name the questions by `questions`: a file or a `datasets` id")
        if not 0 < self.sample_fraction <= 1:
            raise ValueError(
                f"sample_fraction is above 0 and at most 1, got {self.sample_fraction}"
            )
        if not 0 < self.near_duplicates <= 1:
            raise ValueError(
                f"near_duplicates is above 0 and at most 1, got {self.near_duplicates}"
            )
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, got {self.max_rows}")
        if self.workers < 1 or self.answer_batch_size < 1 or self.speech_concurrency < 1:
            raise ValueError("workers, answer_batch_size and speech_concurrency must be 1 or more")
        if self.executor not in EXECUTORS:
            raise ValueError(f"executor is one of {', '.join(EXECUTORS)}, got {self.executor!r}")
        if (self.speech_engine == "server") != (self.speech_base_url is not None):
            raise ValueError("speech_engine server and speech_base_url (its URL) go together")
        if self.speech_base_url is not None and not self.speech_model:
            raise ValueError(
                "speech_base_url needs speech_model: its name tells these clips from another model's"
            )
        if unclear := [entry for entry in self.licenses if "=" not in entry]:
            raise ValueError(f"licenses: write source=license, got {unclear[0]!r}")
        if self.teacher_base_url is not None and self.teacher_model_name_or_path is None:
            raise ValueError(
                "teacher_base_url needs teacher_model_name_or_path: which of its models"
            )
        if len(self.noise_snr_db) != 2 or self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError(f"noise_snr_db is lowest and highest, got {self.noise_snr_db}")
        if self.push_to_hub and not self.hub_dataset_id:
            raise ValueError("push_to_hub needs hub_dataset_id: user/name")
        self.parse_channel_shares()
        self.parse_shard()

    def parse_channel_shares(self) -> dict[tuple[str, ...], float]:
        """Channels that a row trains -> its share; empty where the source decides.

        Raises:
            ValueError: an entry that is none.
        """
        kinds = {**{channel: (channel,) for channel in CHANNELS}, "both": CHANNELS}
        mix = {}
        for entry in self.channel_shares:
            kind, _, share = entry.partition("=")
            if kind not in kinds or not share.replace(".", "", 1).isdecimal():
                raise ValueError(
                    f"channel_shares: {entry!r} is no share; write one of {', '.join(kinds)} as t2t=22456"
                )
            mix[kinds[kind]] = float(share)
        if mix and sum(mix.values()) <= 0:
            raise ValueError("channel_shares: all shares are zero")
        return mix

    def parse_shard(self) -> tuple[int, int]:
        """This machine's number and how many there are.

        Raises:
            ValueError: it is not i/N with i below N.
        """
        number, _, machines = self.shard.partition("/")
        if not (number.isdecimal() and machines.isdecimal() and int(number) < int(machines)):
            raise ValueError(f"shard is i/N with i from 0 to N - 1, got {self.shard!r}")
        return int(number), int(machines)


@dataclass
class SoftTargetArguments:
    """Where soft targets are kept, and how they are made."""

    soft_targets_path: str | None = field(
        default=None,
        metadata={
            "help": "Soft targets of teacher_kind 'stored': a folder (made by recipes/cache_teacher.py) or a Hub id."
        },
    )
    soft_targets_k: int = field(
        default=64, metadata={"help": "Ids kept a token; the mass of all others is one bucket."}
    )
    soft_targets_temperatures: list[float] = field(
        default_factory=lambda: [1.0, 2.0],
        metadata={"help": "Temperatures the table can serve, at 4 bytes a token each."},
    )
    soft_targets_batch_size: int = field(
        default=16, metadata={"help": "Questions the teacher reads at a time."}
    )
    teacher_base_url: str | None = field(
        default=None,
        metadata={
            "help": "Make them by an OpenAI-compatible server that returns prompt log-probabilities (vLLM), "
            "for instance http://localhost:8000/v1, instead of a model in memory. Temperature 1 only."
        },
    )

    def __post_init__(self) -> None:
        if self.soft_targets_k < 1:
            raise ValueError(f"soft_targets_k must be 1 or more, got {self.soft_targets_k}")
        if not self.soft_targets_temperatures or min(self.soft_targets_temperatures) <= 0:
            raise ValueError(
                f"soft_targets_temperatures must be above 0, got {self.soft_targets_temperatures}"
            )
        if self.teacher_base_url and self.soft_targets_temperatures != [1.0]:
            raise ValueError(
                "a server's log-probabilities are of temperature 1 and do not tell the mass of the rest at another: "
                "set soft_targets_temperatures: [1.0] and temperature: 1.0, or make them from a model in memory"
            )
