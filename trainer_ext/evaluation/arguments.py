"""Arguments of recipes/eval_speech.py."""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from trainer_ext.evaluation.conditions import parse_condition
from trainer_ext.evaluation.evaluators.base import PROTOCOLS, check_evaluator

STAGES = ("answers", "scores", "report")


@dataclass(frozen=True)
class ModelsArguments:
    """The models of one report. `model_name_or_path` is the base that the others are compared with."""

    model_name_or_path: str | None = HfArg(default=None, help="The untouched student: Hub id or folder.")
    model_revision: str = HfArg(default="main", help="Branch, tag or commit of the student.")
    adapters: list[str] = HfArg(
        default_factory=list, help="Adapters of that student: folders or Hub ids (user/name, user/name@revision)."
    )
    other_models: list[str] = HfArg(
        default_factory=list, help="Further students without an adapter: merged ones, fine-tuned ones, other families'."
    )
    teacher_model_name_or_path: str | None = HfArg(
        default=None, help="A text LLM, asked in writing alone: the ceiling of the text scores."
    )
    teacher_model_revision: str = HfArg(default="main", help="Branch, tag or commit of the text LLM.")
    server_base_url: str | None = HfArg(
        default=None, help="An OpenAI-compatible server (vLLM, ...) as a further model: http://localhost:8000/v1."
    )
    server_model: str | None = HfArg(default=None, help="The server's name of its model.")
    server_takes_audio: bool = HfArg(default=True, help="Ask the server by audio too.")
    server_concurrency: int = HfArg(default=16, help="Requests in flight at the server.")
    dtype: str = HfArg(default="auto", help="Precision of the weights.")
    load_in_4bit: bool = HfArg(default=False, help="Load the students in NF4.")
    teacher_load_in_4bit: bool = HfArg(default=False, help="Load the text LLM in NF4.")
    batch_size: int = HfArg(default=32, help="Questions at a time; fewer of long ones.")

    def __post_init__(self) -> None:
        if self.adapters and self.model_name_or_path is None:
            raise ValueError("adapters need model_name_or_path: the student that they were trained on")
        if (self.server_base_url is None) != (self.server_model is None):
            raise ValueError("server_base_url and server_model go together")
        if not (
            self.model_name_or_path or self.other_models or self.server_base_url or self.teacher_model_name_or_path
        ):
            raise ValueError("name a model: model_name_or_path, other_models, server_base_url or the teacher")
        if self.batch_size < 1 or self.server_concurrency < 1:
            raise ValueError("batch_size and server_concurrency must be 1 or more")


@dataclass(frozen=True)
class EvaluationArguments:
    """The benchmarks, the scores and the report."""

    benchmarks: list[str] = HfArg(
        default_factory=list,
        help="Names: voicebench (all nine subsets), voicebench/mmsu, mmau_mini_v05.15.25, mmau_mini_original, mmar, "
        "big_bench_audio.",
    )
    benchmark_folders: list[str] = HfArg(
        default_factory=list, help="Copies to read instead of the Hub's: voicebench=/data/voicebench."
    )
    benchmark_splits: list[str] = HfArg(
        default_factory=list, help="Splits to read, instead of all of a benchmark: voicebench/sd-qa=usa,gbr."
    )
    run_config: str | None = HfArg(
        default=None, help="A config of s2t_t2t.py, or a run's resolved.yaml: its held-out questions are asked."
    )
    dataset_name: str | None = HfArg(
        default=None, help="One's own data: a folder of build_data.py, a file, or a `datasets` id with `columns`."
    )
    dataset_revision: str | None = HfArg(default=None, help="Branch, tag or commit of a `datasets` id.")
    dataset_config: str | None = HfArg(default=None, help="Config of a `datasets` id.")
    dataset_split: str = HfArg(default="test", help="Split of it.")
    columns: list[str] = HfArg(
        default_factory=list,
        help="Its columns: question=prompt speech=audio reference=answer; `audio` is a clip that a question is about.",
    )
    evaluator: str | None = HfArg(
        default=None,
        help="Evaluator of run_config and dataset_name: exact_answer, judged_answer, ..., or evaluate:METRIC.",
    )
    modalities: list[str] = HfArg(
        default_factory=lambda: ["text", "speech", "audio"], help="Modalities to ask in, where a benchmark has them."
    )
    max_items: int | None = HfArg(default=None, help="Only the first items of every split.")
    max_new_tokens: int | None = HfArg(default=None, help="Longest answer, instead of the benchmark's own limit.")
    protocol: str = HfArg(
        default="voicebench",
        help="voicebench: the official scores, with a seeded guess for an unreadable choice. strict: that is wrong.",
    )
    official_misreadings: bool = HfArg(
        default=True,
        help="Under protocol voicebench, read three answers of bbh as their opposite, as the original does.",
    )
    conditions: list[str] = HfArg(
        default_factory=list,
        help="Ask in speech again with changed recordings: noise=20 noise=0 (dB) room phone speed=1.2 "
        "voice=en-us+f3/160/50.",
    )
    recognizer: str | None = HfArg(
        default=None,
        help="Recognizer of word error rates, of recordings under conditions and of spoken answers: whisper.",
    )
    recognizer_model: str = HfArg(default="openai/whisper-large-v3-turbo", help="Model of the recognizer.")
    spoken_answers: int = HfArg(
        default=0, help="Let the full model speak its answers to so many questions, and compare them with the written."
    )
    judge_base_url: str | None = HfArg(default=None, help="An OpenAI-compatible server of a judge.")
    judge_model: str | None = HfArg(default=None, help="The judge's name at its server.")
    judge_votes: int = HfArg(default=1, help="Votes per answer.")
    judge_temperature: float = HfArg(default=0.0, help="Temperature of the judge; above 0 for several votes.")
    judge_free: bool = HfArg(
        default=False,
        help="Measure misalignment too (KL of a student's text from its speech) and, with a teacher, forgetting.",
    )
    seed: int = HfArg(default=0, help="Seed of guesses and of bootstrap intervals.")
    stages: list[str] = HfArg(
        default_factory=lambda: list(STAGES), help="Stages to run: answers, scores, report. The others are read."
    )
    page_items: int = HfArg(default=1000, help="Items on the HTML page, those whose scores differ most first.")
    output_dir: str = HfArg(default="outputs/eval", help="Answers, scores, report, pictures and page.")

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {self.protocol!r}")
        if unknown := set(self.stages) - set(STAGES):
            raise ValueError(f"stages: unknown {', '.join(sorted(unknown))}; known are {', '.join(STAGES)}")
        if unknown := set(self.modalities) - {"text", "speech", "audio"}:
            raise ValueError(f"modalities: unknown {', '.join(sorted(unknown))}; known are text, speech, audio")
        if (self.judge_base_url is None) != (self.judge_model is None):
            raise ValueError("judge_base_url and judge_model go together")
        for name in ("judge_votes", "page_items"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("max_items", "max_new_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.evaluator is not None:
            check_evaluator(self.evaluator)
        for name in ("benchmark_folders", "benchmark_splits", "columns"):
            read_key_values(getattr(self, name), name)
        if not (self.benchmarks or self.run_config or self.dataset_name):
            raise ValueError("name what to ask: benchmarks, run_config or dataset_name")
        if (self.run_config or self.dataset_name) and self.evaluator is None:
            raise ValueError("run_config and dataset_name need an evaluator: exact_answer, judged_answer, ...")
        if self.spoken_answers < 0 or (self.spoken_answers and self.recognizer is None):
            raise ValueError("spoken_answers is 0 or more, and needs a recognizer: --recognizer whisper")
        for condition in self.conditions:
            parse_condition(condition)


def read_key_values(entries: list[str], option: str) -> dict[str, str]:
    """Return key -> value of entries like key=value.

    Raises:
        ValueError: an entry is none.
    """
    pairs = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise ValueError(f"{option}: write key=value, got {entry!r}")
        pairs[key] = value
    return pairs
