"""Settings of a data set as fields of YAML files and command lines, one frozen class per stage."""

from dataclasses import dataclass
from typing import NamedTuple

from transformers.hf_argparser import HfArg

from data_builders.schema import PAIR_CHANNELS

EXECUTORS = ("local", "slurm", "ray")


def check_test_share(share: float) -> None:
    """Raise ValueError for a share that leaves nothing to train on."""
    if not 0 <= share < 1:
        raise ValueError(f"test_share is in [0, 1), got {share}")


@dataclass(frozen=True)
class QuestionArguments:
    """The questions, and the selection among them."""

    questions: str | None = HfArg(
        default=None, help="A JSONL, CSV, TSV, text or Parquet file, or a `datasets` id, which is streamed."
    )
    questions_split: str = HfArg(default="train", help="Split of a `datasets` id.")
    questions_revision: str | None = HfArg(default=None, help="Revision of a `datasets` id.")
    columns: list[str] = HfArg(
        default_factory=list,
        help="Names of the source's columns, where they differ: system=system_prompt.",
    )
    sample_fraction: float = HfArg(default=1.0, help="Fraction of the source to look at, chosen by hash of the row.")
    max_rows: int | None = HfArg(default=None, help="Stop after this many kept questions.")
    filter_unspeakable: bool = HfArg(
        default=True, help="Drop questions that cannot be asked aloud, and near duplicates."
    )
    language: str = HfArg(
        default="en", help="Language of the questions, two letters, for filter, text normalization and recognizer."
    )
    max_words: int = HfArg(default=60, help="Longest question, in words.")
    max_seconds: float = HfArg(default=25.0, help="Longest question, in estimated seconds of speech.")
    near_duplicates: float = HfArg(
        default=0.8,
        help="Drop a question with this Jaccard similarity (words and word pairs) to an earlier one.",
    )
    channel_shares: list[str] = HfArg(
        default_factory=list,
        help="Shares of rows by the channels they train: t2t=22456 s2t=44753, or both=1. With `max_rows` the counts "
        "are exact. Unset: the source's `channels`, or both.",
    )
    max_rejected_share: float = HfArg(default=1.0, help="Stop if a larger share of the questions is dropped.")
    test_share: float = HfArg(
        default=0.0,
        help="Share of the questions without a `split` of their own to hold out for the split `test`, chosen by hash.",
    )
    seed: int = HfArg(default=0, help="Seed of sampling, channels and augmentation.")

    def __post_init__(self) -> None:
        if self.questions is None:
            raise ValueError("set `questions`: a file or a `datasets` id")
        if not (len(self.language) == 2 and self.language.isalpha() and self.language.islower()):
            raise ValueError(f"language is two letters, such as en or de, got {self.language!r}")
        if not 0 <= self.max_rejected_share <= 1:
            raise ValueError(f"max_rejected_share is in [0, 1], got {self.max_rejected_share}")
        check_test_share(self.test_share)
        if not 0 < self.sample_fraction <= 1:
            raise ValueError(f"sample_fraction is in (0, 1], got {self.sample_fraction}")
        if not 0 < self.near_duplicates <= 1:
            raise ValueError(f"near_duplicates is in (0, 1], got {self.near_duplicates}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, got {self.max_rows}")
        self.parse_channel_shares()

    def parse_channel_shares(self) -> dict[tuple[str, ...], float]:
        """Return share by tuple of channels; empty where the source decides.

        Raises:
            ValueError: a malformed entry, or shares that add up to zero.
        """
        kinds = {**{channel: (channel,) for channel in PAIR_CHANNELS}, "both": PAIR_CHANNELS}
        shares = {}
        for entry in self.channel_shares:
            kind, _, share = entry.partition("=")
            if kind not in kinds or not share.replace(".", "", 1).isdecimal():
                raise ValueError(f"channel_shares: {entry!r} is no share; write one of {', '.join(kinds)} as t2t=22456")
            shares[kinds[kind]] = float(share)
        if shares and sum(shares.values()) <= 0:
            raise ValueError("channel_shares: all shares are zero")
        return shares


@dataclass(frozen=True)
class AnswerArguments:
    """The teacher that answers the questions."""

    teacher_model_name_or_path: str | None = HfArg(
        default=None, help="The teacher. Unset: no answers are generated; gold responses stay."
    )
    teacher_model_revision: str = HfArg(default="main", help="Revision of the teacher.")
    teacher_dtype: str | None = HfArg(default="auto", help="Precision of a teacher in memory.")
    teacher_load_in_4bit: bool = HfArg(default=False, help="Load the teacher in NF4.")
    teacher_device_map: str | None = HfArg(
        default=None, help="Place of a teacher in memory: auto, cuda:0. Unset: the first device."
    )
    answer_engine: str = HfArg(default="local", help="local (a model in memory) or server (any OpenAI-compatible one).")
    teacher_base_url: str | None = HfArg(
        default=None, help="URL of the teacher's server, for instance http://localhost:8000/v1."
    )
    answer_batch_size: int = HfArg(default=16, help="Questions per batch of a model in memory, or requests in flight.")
    answer_max_new_tokens: int = HfArg(default=256, help="Longest answer, in tokens.")

    def __post_init__(self) -> None:
        if self.answer_batch_size < 1:
            raise ValueError(f"answer_batch_size must be 1 or more, got {self.answer_batch_size}")
        if (self.answer_engine == "server") != (self.teacher_base_url is not None):
            raise ValueError("answer_engine server and teacher_base_url go together")
        if self.teacher_base_url is not None and self.teacher_model_name_or_path is None:
            raise ValueError("teacher_base_url needs teacher_model_name_or_path: the server's model")


@dataclass(frozen=True)
class VoiceArguments:
    """The voices."""

    speech_engine: str = HfArg(
        default="espeak",
        help="TTS engine: espeak, flite, pocket, server (any OpenAI-compatible one), or several (voices are written "
        "engine:voice).",
    )
    train_voices: list[str] = HfArg(
        default_factory=lambda: ["en-us"],
        help="Voices of training rows, in the engine's own notation.",
    )
    test_voices: list[str] = HfArg(
        default_factory=lambda: ["en-gb-x-rp"],
        help="Voices of test rows; each speaks every test question.",
    )
    recordings_per_question: int = HfArg(default=1, help="Recordings of each training question, each in another voice.")

    def __post_init__(self) -> None:
        if not 1 <= self.recordings_per_question <= len(self.train_voices):
            raise ValueError(
                f"recordings_per_question is {self.recordings_per_question}, but there are "
                f"{len(self.train_voices)} train_voices: recordings of a question never share a voice"
            )
        if shared := set(self.train_voices) & set(self.test_voices):
            raise ValueError(f"voices {sorted(shared)} are in both train_voices and test_voices; keep them apart")


@dataclass(frozen=True)
class SpeechArguments(VoiceArguments):
    """Voices, engine and augmentation of the recordings."""

    speech_base_url: str | None = HfArg(
        default=None, help="URL of speech_engine server, for instance http://localhost:8001/v1."
    )
    speech_model: str = HfArg(default="", help="Model of the server or of the engine.")
    speech_concurrency: int = HfArg(default=4, help="Requests in flight at a speech server.")
    augmentations: list[str] = HfArg(
        default_factory=list,
        help="Effects that make `noisy_speech`, in order: room, noise, phone. Unset: none.",
    )
    noise_snr_db: list[float] = HfArg(
        default_factory=lambda: [5.0, 20.0],
        help="Signal-to-noise ratio of the effect noise: lowest and highest.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.speech_engine == "server") != (self.speech_base_url is not None):
            raise ValueError("speech_engine server and speech_base_url go together")
        if self.speech_base_url is not None and not self.speech_model:
            raise ValueError("speech_base_url needs speech_model: its name tells these clips from another model's")
        if self.speech_concurrency < 1:
            raise ValueError(f"speech_concurrency must be 1 or more, got {self.speech_concurrency}")
        if len(self.noise_snr_db) != 2 or self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError(f"noise_snr_db is lowest and highest, got {self.noise_snr_db}")


@dataclass(frozen=True)
class VerificationArguments:
    """The recognizer, and the thresholds of a kept clip."""

    recognizer: str = HfArg(default="pocketsphinx", help="Recognizer of every clip: pocketsphinx, whisper or none.")
    recognizer_model: str = HfArg(default="openai/whisper-large-v3-turbo", help="Model of recognizer whisper.")
    max_wer: float = HfArg(
        default=0.5,
        help="Highest word error rate of a kept clip. 0.1 with Whisper (TARS, arXiv 2601.05543).",
    )
    similarity_model: str | None = HfArg(
        default=None, help="A sentence-transformers model that compares transcript and question."
    )
    min_similarity: float = HfArg(default=0.7, help="Lowest similarity of a kept clip.")


@dataclass(frozen=True)
class PipelineArguments:
    """Folders, processes and the finished data set."""

    output_dir: str = HfArg(default="outputs/data/built", help="The data set: parquet, card, pictures, manifest.")
    cache_dir: str = HfArg(default="outputs/data", help="Folder of the caches of finished answers, clips and checks.")
    overwrite_output_dir: bool = HfArg(default=False, help="Replace another data set in `output_dir`.")
    dry_run: bool = HfArg(default=False, help="Show what would be built, and make nothing.")
    max_shard_size: str = HfArg(default="500MB", help="Size of a parquet shard, the unit of work: 500MB or 2GB.")
    workers: int = HfArg(default=1, help="Processes of this machine, or tasks of a cluster.")
    shard: str = HfArg(
        default="0/1",
        help="i/N: this machine's part of the shards. Give every machine the same `workers`; then run once without "
        "`shard` to assemble the data set.",
    )
    executor: str = HfArg(default="local", help="datatrove's executor: local, slurm or ray.")
    executor_options: list[str] = HfArg(
        default_factory=list,
        help="Arguments of datatrove's Slurm or Ray executor: partition=gpu time=24:00:00 gpus_per_task=1.",
    )
    skip_failed: bool = HfArg(default=False, help="Finish without the rows that failed after all retries.")
    retry_failed: bool = HfArg(default=False, help="Try the failed and refused rows of a finished data set again.")
    save_to_disk: str | None = HfArg(default=None, help="Write Arrow files too, as `datasets.save_to_disk` does.")
    push_to_hub: bool = HfArg(default=False, help="Push the finished data set.")
    hub_dataset_id: str | None = HfArg(default=None, help="Repository to push to: user/name.")
    hub_private_repo: bool | None = HfArg(
        default=None, help="Create the repository private; unset, as the account's default is."
    )
    overwrite_repository: bool = HfArg(default=False, help="Replace something else that the repository holds.")
    licenses: list[str] = HfArg(default_factory=list, help="Licenses for the card: Open-Orca/OpenOrca=mit.")

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be 1 or more, got {self.workers}")
        if self.executor not in EXECUTORS:
            raise ValueError(f"executor is one of {', '.join(EXECUTORS)}, got {self.executor!r}")
        if self.push_to_hub and not self.hub_dataset_id:
            raise ValueError("push_to_hub needs hub_dataset_id: user/name")
        for name in ("licenses", "executor_options"):
            if malformed := [entry for entry in getattr(self, name) if "=" not in entry]:
                raise ValueError(f"{name}: write key=value, got {malformed[0]!r}")
        self.parse_shard()

    def parse_shard(self) -> tuple[int, int]:
        """Return this machine's number and the number of machines.

        Raises:
            ValueError: `shard` is not i/N with i below N.
        """
        number, _, machines = self.shard.partition("/")
        if not (number.isdecimal() and machines.isdecimal() and int(number) < int(machines)):
            raise ValueError(f"shard is i/N with i from 0 to N - 1, got {self.shard!r}")
        return int(number), int(machines)


class BuildSettings(NamedTuple):
    """All settings of one build. `pipeline/` alone sees them together."""

    questions: QuestionArguments
    answers: AnswerArguments
    speech: SpeechArguments
    verification: VerificationArguments
    pipeline: PipelineArguments


@dataclass(frozen=True)
class DataArguments(VoiceArguments):
    """The pairs of a training run: a finished data set, or questions to build one from."""

    dataset_name: str | None = HfArg(
        default=None,
        help="A finished data set: a folder of build_data.py or `save_to_disk`, or a Hub id.",
    )
    dataset_revision: str | None = HfArg(default=None, help="Branch, tag or commit of `dataset_name` on the Hub.")
    questions: str | None = HfArg(
        default=None,
        help="Questions to build a data set from: a JSONL, CSV, TSV, text or Parquet file, or a `datasets` id.",
    )
    cache_dir: str = HfArg(default="outputs/data", help="Folder of the caches of finished answers and clips.")
    test_share: float = HfArg(
        default=0.1,
        help="Share of the questions to hold out, of those without a `split` of their own: they are asked before and "
        "after training, and never trained on.",
    )
    answer_max_new_tokens: int = HfArg(
        default=256, help="Longest answer of the teacher and of the evaluated student, in tokens."
    )
    dry_run: bool = HfArg(default=False, help="Show rows as the student reads them, and the plan; make nothing.")
    speech_column: str = HfArg(default="speech", help="Recording that the student trains on: speech or noisy_speech.")
    sound_dataset_name: str | None = HfArg(
        default=None,
        help="Questions about sounds beside the pairs, for channel a2t: a folder of build_sound_data.py, or a Hub id.",
    )
    sound_dataset_revision: str | None = HfArg(default=None, help="Branch, tag or commit of it on the Hub.")
    sound_share: float | None = HfArg(
        default=None, help="Share of the training rows that ask about sounds. Unset: all of them, as in the paper."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_test_share(self.test_share)
        if self.sound_share is not None and not 0 < self.sound_share < 1:
            raise ValueError(f"sound_share is in (0, 1), got {self.sound_share}")
        if self.sound_share is not None and self.sound_dataset_name is None:
            raise ValueError("sound_share needs sound_dataset_name: the questions about sounds")
        # `--questions ""` unsets the config's value.
        object.__setattr__(self, "questions", self.questions or None)
        if (self.dataset_name is None) == (self.questions is None):
            raise ValueError(
                "set one of `dataset_name` (a finished data set) and `questions` (questions to build from)"
            )
        if self.speech_engine == "server":
            raise ValueError(
                "speech_engine: a server's speech is made by recipes/build_data.py; train on its folder by dataset_name"
            )
        if self.speech_column not in ("speech", "noisy_speech"):
            raise ValueError(f"speech_column is speech or noisy_speech, got {self.speech_column!r}")


@dataclass(frozen=True)
class SoftTargetArguments:
    """Stored soft targets: their place, and how they are made."""

    soft_targets_path: str | None = HfArg(
        default=None,
        help="Soft targets of teacher_kind stored: a folder (made by recipes/cache_teacher.py) or a Hub id "
        "(user/name, user/name@revision).",
    )
    soft_targets_k: int = HfArg(default=64, help="Kept ids per token; all other ids share one bucket.")
    soft_targets_temperatures: list[float] = HfArg(
        default_factory=lambda: [1.0, 2.0],
        help="Temperatures that the table can serve, at 4 bytes per token each.",
    )
    soft_targets_batch_size: int = HfArg(default=16, help="Questions per batch of the teacher.")
    teacher_base_url: str | None = HfArg(
        default=None,
        help="Make them with an OpenAI-compatible server that returns prompt log-probabilities (vLLM), for instance "
        "http://localhost:8000/v1, instead of a model in memory. Temperature 1 only.",
    )

    def __post_init__(self) -> None:
        if self.soft_targets_k < 1:
            raise ValueError(f"soft_targets_k must be 1 or more, got {self.soft_targets_k}")
        if not self.soft_targets_temperatures or min(self.soft_targets_temperatures) <= 0:
            raise ValueError(f"soft_targets_temperatures must be above 0, got {self.soft_targets_temperatures}")
        if self.teacher_base_url and self.soft_targets_temperatures != [1.0]:
            raise ValueError(
                "a server's log-probabilities are at temperature 1 and do not give the mass of the rest at another: "
                "set soft_targets_temperatures: [1.0] and temperature: 1.0, or make them from a model in memory"
            )
