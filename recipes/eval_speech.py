"""Measure speech LLMs asked in writing and by voice: scores, gaps, paired intervals, one page to read and hear.

    benchmarks x models -> answers -> scores -> report.json, report.md, pictures, index.html

    python recipes/eval_speech.py                 # the tiny lab: base, adapter and teacher; a minute on two cores
    python recipes/eval_speech.py --model_name_or_path Qwen/Qwen2.5-Omni-7B --adapters outputs/omni7b_qlora \
        --benchmarks voicebench/openbookqa voicebench/bbh --output_dir outputs/eval7b
    python recipes/eval_speech.py --server_base_url http://localhost:8000/v1 --server_model Qwen/Qwen2.5-Omni-7B \
        --benchmarks voicebench --judge_base_url http://localhost:8001/v1 --judge_model Qwen/Qwen2.5-72B-Instruct

Each stage writes files and reads those of the one before: a run that was killed goes on, and a second one asks nothing.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from accelerate import PartialState

from data_builders.arguments import DataArguments
from data_builders.hub.ids import public_name
from data_builders.pairs import load_pairs
from data_builders.pretrained import load_config
from data_builders.sounds.rows import add_sounds, load_sounds
from data_builders.storage.dataset_folder import load_dataset_folder
from data_builders.storage.run_record import write_run_record
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.checkpoints.output_dir import claim_folder
from trainer_ext.command_line import run_command
from trainer_ext.evaluation.answering import Generation
from trainer_ext.evaluation.arguments import EvaluationArguments, ModelsArguments, read_key_values
from trainer_ext.evaluation.benchmarks.base import Benchmark, LoadedBenchmark, load_benchmark
from trainer_ext.evaluation.benchmarks.own_data import make_mapped_benchmark, make_pairs_benchmark
from trainer_ext.evaluation.benchmarks.registry import OVERALL, find_benchmarks
from trainer_ext.evaluation.clip_errors import FreeRecognizer, measure_clips
from trainer_ext.evaluation.conditions import apply_condition
from trainer_ext.evaluation.evaluators.base import EvaluatorSettings
from trainer_ext.evaluation.evaluators.judged import PROMPT_VERSION
from trainer_ext.evaluation.held_out import choose_evaluator, select_sounds
from trainer_ext.evaluation.items import AnsweredItem
from trainer_ext.evaluation.judge import JudgeSettings, ServerJudge
from trainer_ext.evaluation.judge_free_stage import TextLLM, measure_students
from trainer_ext.evaluation.run import (
    EvaluationPlan,
    check_references,
    collect_answers,
    find_missing,
    report_answers,
)
from trainer_ext.evaluation.scoring import Cell, read_scores
from trainer_ext.evaluation.sources.base import AnswerSource
from trainer_ext.evaluation.sources.from_arguments import BASE, make_sources, read_teacher
from trainer_ext.evaluation.sources.student import LoadSettings
from trainer_ext.evaluation.spoken_answers import measure_spoken_answers
from trainer_ext.evaluation.summary import round_estimate
from trainer_ext.evaluation.tables import show_scores
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.row_validation import PromptLength
from trainer_ext.students.base import SpeakingFamily
from trainer_ext.students.registry import load_student_family

TINY_LAB = Path(__file__).parent / "configs" / "eval" / "tiny.yaml"
NAMED_BY = (
    "model_name_or_path", "other_models", "teacher_model_name_or_path", "server_base_url", "benchmarks", "dataset_name",
    "run_config",
)  # fmt: skip


def main() -> None:
    parser = RecipeParser((ModelsArguments, EvaluationArguments), TINY_LAB, named_by=NAMED_BY)
    models, evaluation = parser.parse_args_and_config()
    keep_libraries_quiet()
    if parser.uses_default_config:
        models = leave_out_missing_adapters(models)
    folder = Path(evaluation.output_dir)
    # Without `cpu`, accelerate takes the processes of torchrun on a machine without an accelerator for one each.
    state = PartialState(cpu=not torch.accelerator.is_available())
    with state.main_process_first():
        benchmarks = load_benchmarks(evaluation)
    sources = make_sources(models)
    plan = make_plan(evaluation, benchmarks, BASE if models.model_name_or_path else None)
    check_before_answers(evaluation, models, sources, plan)
    if state.is_main_process:
        claim_folder(folder)
        write_run_record(folder, parser.resolved)
    answers = collect_answers(sources, plan, folder)
    judge_free = measure_judge_free(models, evaluation, sources, plan, answers) if evaluation.judge_free else []
    if state.is_main_process and {"scores", "report"} & set(evaluation.stages):
        facts = measure_speech(models, evaluation, sources, plan, folder) if evaluation.recognizer else {}
        scores = None if "scores" in evaluation.stages else read_scores(folder / "scores.jsonl", answers)
        facts |= {"judge": describe_judge(evaluation), "judge_free": judge_free}
        report, _ = report_answers(answers, sources, plan, folder, folder, results=scores, **facts)
        show_scores(report)
        print(f"report, pictures and page: {folder}/index.html")


def check_before_answers(
    evaluation: EvaluationArguments, models: ModelsArguments, sources: list[AnswerSource], plan: EvaluationPlan
) -> None:
    """Find what would fail only after hours of answers: names, references, judge, recognizer, voice.

    Raises:
        ValueError: something is missing or wrong; names it.
        ServerUnreachable: the judge does not answer.
    """
    for source in sources:
        source.describe()  # reads every model's and adapter's files
    check_references(plan)
    if plan.settings.judge is not None:
        plan.settings.judge.check()
    if PartialState().is_main_process:
        for name, lack in find_missing(plan).items():
            print(f"{name} will not be scored: it needs {lack}")
    if evaluation.recognizer is not None:
        FreeRecognizer(evaluation.recognizer, evaluation.recognizer_model)
    if evaluation.spoken_answers:
        name = models.model_name_or_path
        if name is None or models.load_in_4bit:
            raise ValueError("spoken_answers needs model_name_or_path, a full model, and no load_in_4bit")
        family = load_student_family(name, models.model_revision)
        config = load_config(name, models.model_revision)
        if not isinstance(family, SpeakingFamily) or family.read_config(config) is config:
            raise ValueError(f"{name} cannot speak: it is no full model with a voice")


def describe_judge(evaluation: EvaluationArguments) -> dict[str, Any] | None:
    """Return who judged, and how; None for nobody."""
    if evaluation.judge_model is None:
        return None
    return {
        "model": evaluation.judge_model, "votes": evaluation.judge_votes, "temperature": evaluation.judge_temperature,
        "prompts": PROMPT_VERSION,
    }  # fmt: skip


def measure_judge_free(
    models: ModelsArguments,
    evaluation: EvaluationArguments,
    sources: list[AnswerSource],
    plan: EvaluationPlan,
    answers: dict[Cell, list[AnsweredItem]],
) -> list[dict[str, Any]]:
    """Return misalignment and forgetting of every student; the teacher is loaded if figures are missing."""
    teacher = None
    if models.teacher_model_name_or_path is not None:
        teacher = TextLLM(read_teacher(models, models.teacher_model_name_or_path))
    return measure_students(
        sources, plan.benchmarks, answers, plan.base, teacher, Path(evaluation.output_dir), evaluation.seed
    )


def measure_speech(
    models: ModelsArguments,
    evaluation: EvaluationArguments,
    sources: list[AnswerSource],
    plan: EvaluationPlan,
    folder: Path,
) -> dict[str, Any]:
    """Return word error rates of the recordings and, if asked for, of the students' spoken answers."""
    assert evaluation.recognizer is not None
    recognizer = FreeRecognizer(evaluation.recognizer, evaluation.recognizer_model)
    clip_errors = []
    for loaded in plan.benchmarks:
        if evaluation.conditions and "speech" in loaded.benchmark.modalities:
            measured = measure_clips(loaded, recognizer, folder, evaluation.seed)
            place = {"benchmark": loaded.benchmark.name, "condition": loaded.condition}
            clip_errors.append({**place, **round_estimate(measured)})
    spoken = []
    if evaluation.spoken_answers and models.model_name_or_path is not None:
        written = [loaded for loaded in plan.benchmarks if "text" in loaded.benchmark.modalities]
        items = [item for loaded in written if not loaded.condition for item in loaded.items if item.question]
        spoken = measure_spoken_answers(
            LoadSettings(models.model_name_or_path, models.model_revision, models.dtype),
            list(zip([source.label for source in sources[1:]], models.adapters, strict=False)),
            list({item.question_id: item for item in items}.values())[: evaluation.spoken_answers],
            recognizer,
            evaluation.max_new_tokens or 256,
            folder,
            evaluation.seed,
        )
    return {"clip_errors": clip_errors, "spoken_answers": spoken}


def leave_out_missing_adapters(models: ModelsArguments) -> ModelsArguments:
    """Leave out the lab's adapter, which is made by a training run, if there is none."""
    there = [adapter for adapter in models.adapters if Path(adapter).is_dir()]
    for adapter in sorted(set(models.adapters) - set(there)):
        print(f"{adapter} is not there yet, so the untouched student is scored alone; make it by recipes/s2t_t2t.py")
    return replace(models, adapters=there)


def load_benchmarks(evaluation: EvaluationArguments) -> list[LoadedBenchmark]:
    """Load the items of every benchmark, and again for every condition of the recordings.

    Raises:
        ValueError: a data set, split or column is missing.
    """
    folders = read_key_values(evaluation.benchmark_folders, "benchmark_folders")
    splits = read_key_values(evaluation.benchmark_splits, "benchmark_splits")
    loaded = []
    for benchmark in find_benchmarks(evaluation.benchmarks):
        if benchmark.name in splits:
            benchmark = replace(benchmark, splits=tuple(splits[benchmark.name].split(",")))
        folder = folders.get(benchmark.name, folders.get(benchmark.name.split("/")[0]))
        loaded.append(load_benchmark(benchmark, folder, evaluation.max_items))
    if evaluation.run_config is not None:
        loaded += load_held_out(evaluation)
    if evaluation.dataset_name is not None:
        loaded += load_own_data(evaluation)
    changed = [
        apply_condition(plain, condition)
        for condition in evaluation.conditions
        for plain in loaded
        if "speech" in plain.benchmark.modalities
    ]
    return [*loaded, *changed]


def load_held_out(evaluation: EvaluationArguments) -> list[LoadedBenchmark]:
    """Load the held-out rows of a training config, built here if they are not there yet, and its held-out sounds."""
    assert evaluation.run_config is not None
    assert evaluation.evaluator is not None
    file = Path(evaluation.run_config)
    if not file.is_file():
        raise ValueError(f"run_config: there is no file {file}")
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    data, model = (
        kind(**{f.name: config[f.name] for f in fields(kind) if f.init and config.get(f.name) is not None})
        for kind in (DataArguments, ModelArguments)
    )
    family = load_student_family(model.model_name_or_path, model.model_revision)
    check = PromptLength(family, config.get("max_length", CrossModalDistillConfig.max_length))
    pairs = load_pairs(data, model.teacher, check)  # as the run did, so that it finds what the run has made
    if "test" not in pairs:
        raise ValueError(f"run_config: the data of {file} have no held-out rows (no split 'test')")
    if "audio" in evaluation.modalities and (sounds := load_sounds(data)) is not None:
        pairs = add_sounds(pairs, sounds, None, train=False)
    return select_rows(pairs["test"], file.stem, evaluation, data.answer_max_new_tokens)


def load_own_data(evaluation: EvaluationArguments) -> list[LoadedBenchmark]:
    """Load a data set of build_data.py, or any other by its columns."""
    assert evaluation.dataset_name is not None
    assert evaluation.evaluator is not None
    if not evaluation.columns:
        pairs = load_dataset_folder(evaluation.dataset_name, evaluation.dataset_revision)
        if evaluation.dataset_split not in pairs:
            raise ValueError(
                f"{evaluation.dataset_name} has no split {evaluation.dataset_split!r}; it has {', '.join(pairs)}"
            )
        return select_rows(pairs[evaluation.dataset_split], public_name(evaluation.dataset_name), evaluation, 1024)
    benchmark: Benchmark = make_mapped_benchmark(
        evaluation.dataset_name,
        evaluation.dataset_config,
        evaluation.dataset_split,
        read_key_values(evaluation.columns, "columns"),
        evaluation.evaluator,
        1024,
        evaluation.dataset_revision,
    )
    return [load_benchmark(benchmark, None, evaluation.max_items)]


def select_rows(
    rows: datasets.Dataset, name: str, evaluation: EvaluationArguments, max_new_tokens: int
) -> list[LoadedBenchmark]:
    """Return the rows that have speech as a benchmark, and those that ask about sounds as another one."""
    found = []
    seconds = rows["speech_seconds"] if "speech_seconds" in rows.column_names else []
    if spoken := [i for i, length in enumerate(seconds) if length]:
        chosen = rows.select(spoken[: evaluation.max_items])
        found.append(make_pairs_benchmark(chosen, name, evaluation.evaluator or "", max_new_tokens))
    if (sounds := select_sounds(rows)) is not None:
        chosen = sounds.select(range(min(len(sounds), evaluation.max_items or len(sounds))))
        evaluator = choose_evaluator(None, chosen)
        found.append(make_pairs_benchmark(chosen, f"{name}/sounds", evaluator, max_new_tokens, about_sounds=True))
    if not found:
        raise ValueError(f"{name} has no held-out row with speech or with a sound")
    return found


def list_overall(evaluation: EvaluationArguments) -> dict[str, list[str]]:
    """Return the overall scores that can be made: of whole subsets alone."""
    if evaluation.max_items is not None:
        return {}
    cut = set(read_key_values(evaluation.benchmark_splits, "benchmark_splits"))
    named = {name: [f"voicebench/{subset}" for subset in subsets] for name, subsets in OVERALL.items()}
    return {name: subsets for name, subsets in named.items() if not cut & set(subsets)}


def make_plan(evaluation: EvaluationArguments, benchmarks: list[LoadedBenchmark], base: str | None) -> EvaluationPlan:
    """Return what is asked, and how it is scored."""
    judge = None
    if evaluation.judge_base_url is not None:
        assert evaluation.judge_model is not None
        settings = JudgeSettings(
            evaluation.judge_base_url, evaluation.judge_model, evaluation.judge_votes, evaluation.judge_temperature
        )
        judge = ServerJudge(settings, Path(evaluation.output_dir) / "judge.sqlite")
    return EvaluationPlan(
        benchmarks=benchmarks,
        evaluators={b.benchmark.name: b.benchmark.evaluator for b in benchmarks},
        modalities=evaluation.modalities,
        settings=EvaluatorSettings(evaluation.protocol, evaluation.official_misreadings, evaluation.seed, judge),
        generation=Generation(evaluation.max_new_tokens, evaluation.seed, "answers" in evaluation.stages),
        base=base,
        overall=list_overall(evaluation),
        page_items=evaluation.page_items,
    )


if __name__ == "__main__":
    run_command(main)
