"""Precompute the teacher's top-k log-probabilities for every response token: no run has to hold it in memory.

    pairs -> the teacher's k likeliest ids at every response token -> soft targets beside the data set

    accelerate launch recipes/cache_teacher.py --config recipes/configs/tiny_stored.yaml      # 10 s on two cores
    accelerate launch recipes/s2t_t2t.py --config recipes/configs/tiny_stored.yaml

It reads the config of the run that will use the soft targets (`teacher_kind: stored`). Several processes share the
rows; a killed run resumes. From a server instead of a model in memory:

    vllm serve Qwen/Qwen2.5-7B-Instruct --max-logprobs 64
    python recipes/cache_teacher.py --config my.yaml --teacher_base_url http://localhost:8000/v1 \\
        --temperature 1.0 --soft_targets_temperatures 1.0
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import concatenate_datasets

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.arguments import DataArguments, SoftTargetArguments
from data_builders.causal_lm import TeacherSettings
from data_builders.chat import hash_vocabulary
from data_builders.outcomes import ServerUnreachable, TemporaryFailure
from data_builders.pairs import load_pairs
from data_builders.pretrained import load_config, load_tokenizer
from data_builders.schema import RESPONSE_COLUMN, SOUND_CHANNEL
from data_builders.soft_targets.cache import Scorer, cache_soft_targets, locate_cache, make_settings, read_inputs
from data_builders.storage.atomic import check_writable
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.command_line import run_command
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.row_validation import PromptLength
from trainer_ext.students.base import StudentFamily
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.top_k_scorer import TopKScorer

TINY_STORED = Path(__file__).parent / "configs" / "tiny_stored.yaml"


def main() -> None:
    parser = RecipeParser(
        (ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig),
        TINY_STORED,
        alternatives=[("dataset_name", "questions")],
    )
    model, data, soft, training = parser.parse_args_and_config()
    keep_libraries_quiet()
    teacher = model.teacher
    if teacher is None or soft.soft_targets_path is None:
        parser.error("name the teacher by teacher_model_name_or_path, and the folder to make by soft_targets_path")
    if training.temperature not in soft.soft_targets_temperatures:
        parser.error(
            f"the run's temperature {training.temperature} is not among soft_targets_temperatures "
            f"{soft.soft_targets_temperatures}"
        )
    check_writable(locate_cache(Path(soft.soft_targets_path)), f"soft_targets_path {soft.soft_targets_path}")
    state = PartialState()
    student = load_student_family(model.model_name_or_path, model.model_revision)
    with state.main_process_first():
        check = PromptLength(student, training.max_length)  # the same questions as those of the run
        pairs = load_pairs(data, teacher, check, training.allowed_rejected_share)
    tokenizer = load_tokenizer(teacher.name_or_path, teacher.revision)
    settings = read_settings(student, teacher, soft, tokenizer)
    rows = concatenate_datasets(list(pairs.values()))
    # The teacher of questions about sounds is the untouched student, in every run.
    rows = rows.filter(lambda channels: SOUND_CHANNEL not in channels, input_columns="channels")
    inputs = read_inputs(rows, RESPONSE_COLUMN[training.hard_targets], tokenizer)
    try:
        statistics = cache_soft_targets(
            inputs,
            Path(soft.soft_targets_path),
            settings,
            lambda: load_scorer(teacher, soft, settings),
            soft.soft_targets_batch_size,
        )
    except (ValueError, ServerUnreachable, TemporaryFailure) as error:
        parser.error(f"{error}. Scored rows are kept: run this again to resume")
    if state.is_main_process:
        show(soft.soft_targets_path, settings["k"], statistics)


def read_settings(
    student: StudentFamily, teacher: TeacherSettings, soft: SoftTargetArguments, tokenizer: Any
) -> dict[str, Any]:
    """Return the settings of the table.

    Raises:
        ValueError: teacher and student have different vocabularies.
    """
    config = load_config(teacher.name_or_path, teacher.revision)
    if hash_vocabulary(tokenizer) != hash_vocabulary(student.tokenizer):
        raise ValueError(
            f"{teacher.name_or_path} and {student.tokenizer.name_or_path} have different vocabularies, so the student "
            "cannot learn from the teacher's tokens: choose a teacher of the student's own tokenizer family"
        )
    precision = "4-bit" if teacher.load_in_4bit else teacher.dtype
    return make_settings(
        fingerprint_model(teacher.name_or_path, teacher.revision),
        "server" if soft.teacher_base_url else f"model in {precision}",
        tokenizer,
        min(config.get_text_config().vocab_size, student.vocab_size),
        soft.soft_targets_k,
        soft.soft_targets_temperatures,
    )


def load_scorer(teacher: TeacherSettings, soft: SoftTargetArguments, settings: dict[str, Any]) -> Scorer:
    """Connect to the server, or load the teacher."""
    if soft.teacher_base_url is not None:
        from data_builders.soft_targets.openai_server import ServerScorer

        return ServerScorer(soft.teacher_base_url, teacher.name_or_path, settings["vocab_size"], settings["k"])
    return TopKScorer(
        LiveTeacher.from_settings(teacher), settings["vocab_size"], settings["k"], settings["temperatures"]
    )


def show(folder: str, k: int, statistics: dict[str, Any]) -> None:
    """Print the statistics of the table."""
    mass = ", ".join(f"{kept:.4f} at temperature {tau:g}" for tau, kept in statistics["kept_mass"].items())
    print(
        f"soft targets in {folder}: {statistics['rows']} rows ({statistics['scored']} scored now), "
        f"{statistics['tokens']} tokens, {statistics['bytes_per_token']:.0f} kB per 1,000 tokens "
        f"({statistics['bytes_per_kept_id']:.2f} bytes per kept id)\nmass of the {k} kept ids: {mass}"
    )


if __name__ == "__main__":
    run_command(main)
