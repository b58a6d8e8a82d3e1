"""Take the teacher through the data once and keep what it thought, so that no run has to hold it in memory.

    pairs -> the teacher's k likeliest ids at every response token -> soft targets beside the data set

It reads the config of the run that will use it, whose `teacher_kind` is `stored`:

    accelerate launch recipes/cache_teacher.py --config recipes/configs/tiny_stored.yaml
    accelerate launch recipes/s2t_t2t.py --config recipes/configs/tiny_stored.yaml

Several processes share the rows; a killed run goes on where it was. From a server instead of a model in memory:

    vllm serve Qwen/Qwen2.5-7B-Instruct --max-logprobs 64
    python recipes/cache_teacher.py --config my.yaml --teacher_base_url http://localhost:8000/v1 \\
        --temperature 1.0 --soft_targets_temperatures 1.0
"""

import functools
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import concatenate_datasets
from transformers import AutoConfig, AutoTokenizer

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.arguments import DataArguments, SoftTargetArguments
from data_builders.chat import hash_vocabulary
from data_builders.clients.concurrent import ServerUnreachable, TemporaryFailure
from data_builders.pairs import load_pairs
from data_builders.schema import RESPONSE_COLUMN
from data_builders.soft_targets.cache import Scorer, cache_soft_targets, make_settings, read_rows
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.loading.teacher import load_answering_teacher, name_precision
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.top_k_scorer import TopKScorer

TINY_STORED = Path(__file__).parent / "configs" / "tiny_stored.yaml"


def main() -> None:
    parser = RecipeParser(
        (ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig), TINY_STORED
    )
    model, data, soft, training = parser.parse_args_and_config()
    keep_libraries_quiet()
    if model.teacher_model_name_or_path is None or soft.soft_targets_path is None:
        parser.error(
            "name the teacher by teacher_model_name_or_path, and the folder to make by soft_targets_path"
        )
    if training.temperature not in soft.soft_targets_temperatures:
        parser.error(
            f"the run's temperature {training.temperature} is not among soft_targets_temperatures "
            f"{soft.soft_targets_temperatures}"
        )
    state = PartialState()
    source, revision = model.teacher_model_name_or_path, model.teacher_model_revision
    with state.main_process_first():
        load_answering = functools.partial(load_answering_teacher, model)
        pairs = load_pairs(data, source, revision, load_answering, name_precision(model))
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    teacher_rows = (
        AutoConfig.from_pretrained(source, revision=revision).get_text_config().vocab_size
    )
    family = load_student_family(model.model_name_or_path, model.model_revision)
    if hash_vocabulary(tokenizer) != hash_vocabulary(family.tokenizer):
        raise ValueError(
            f"{source} and {model.model_name_or_path} have unlike vocabularies, so the student could not learn from "
            "its tokens: choose a teacher of the student's own tokenizer family"
        )
    precision = "4-bit" if model.teacher_load_in_4bit else model.teacher_dtype or model.dtype
    settings = make_settings(
        fingerprint_model(source, revision),
        "server" if soft.teacher_base_url else f"model in {precision}",
        tokenizer,
        min(teacher_rows, family.vocab_size),
        soft.soft_targets_k,
        soft.soft_targets_temperatures,
    )

    def load_scorer() -> Scorer:
        if soft.teacher_base_url is not None:
            from data_builders.soft_targets.openai_server import ServerScorer

            return ServerScorer(
                soft.teacher_base_url, source, settings["vocab_size"], settings["k"]
            )
        teacher = LiveTeacher.from_pretrained(
            source,
            revision,
            model.teacher_dtype or model.dtype,
            model.teacher_load_in_4bit,
            model.teacher_device_map,
        )
        return TopKScorer(teacher, settings["vocab_size"], settings["k"], settings["temperatures"])

    rows = read_rows(
        concatenate_datasets(list(pairs.values())),
        RESPONSE_COLUMN[training.hard_targets],
        tokenizer,
    )
    try:
        made = cache_soft_targets(
            rows, Path(soft.soft_targets_path), settings, load_scorer, soft.soft_targets_batch_size
        )
    except (ValueError, ServerUnreachable, TemporaryFailure) as error:
        parser.error(f"{error}. What was scored is kept: run this again to go on")
    if state.is_main_process:
        show(soft.soft_targets_path, settings["k"], made)


def show(folder: str, k: int, made: dict[str, Any]) -> None:
    mass = ", ".join(
        f"{kept:.4f} at temperature {tau:g}" for tau, kept in made["kept_mass"].items()
    )
    print(
        f"soft targets in {folder}: {made['rows']} rows ({made['scored']} scored now), {made['tokens']} tokens, "
        f"{made['bytes_per_token']:.0f} kB per 1,000 tokens ({made['bytes_per_kept_id']:.2f} bytes a kept id)\n"
        f"mass of the {k} kept ids: {mass}"
    )


if __name__ == "__main__":
    main()
