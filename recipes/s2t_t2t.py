"""Distill a text LLM into a speech LLM through text (t2t) and speech (s2t), and measure the scores before and after.

    parse -> pairs -> student + teacher -> score -> train -> score -> save -> report -> push

    accelerate launch recipes/s2t_t2t.py                   # the tiny lab on a CPU: 3 minutes on two cores
    accelerate launch recipes/s2t_t2t.py --config recipes/configs/tiny_qlora.yaml --output_dir outputs/mine

Every argument of TRL's SFTConfig and ModelConfig works or is refused with the reason, in the YAML file or on the
command line, which wins.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

import collections
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers.integrations import get_reporting_integration_callbacks

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.arguments import DataArguments, QuestionArguments, SoftTargetArguments
from data_builders.hub.ids import is_local, public_name
from data_builders.pairs import locate_pairs, read_pairs
from data_builders.pipeline.assemble import MANIFEST, read_manifest
from data_builders.pipeline.outcome_table import show_outcomes
from data_builders.pipeline.preview import preview_questions
from data_builders.schema import SOUND_CHANNEL
from data_builders.sounds.rows import add_sounds, load_sounds
from data_builders.storage.atomic import write_atomic
from data_builders.storage.run_record import write_run_record
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.checkpoints.complete import find_corruption
from trainer_ext.checkpoints.identity import hash_weights
from trainer_ext.checkpoints.output_dir import claim_output_dir, replace_earlier_run
from trainer_ext.command_line import run_command
from trainer_ext.evaluation.divergences import measure_divergences
from trainer_ext.evaluation.evaluators.base import check_evaluator
from trainer_ext.evaluation.held_out import AFTER, BEFORE, HeldOut, select_held_out, select_sounds, show_lines
from trainer_ext.evaluation.plots import plot_training
from trainer_ext.evaluation.tables import make_model_index, write_markdown
from trainer_ext.hub.run_facts import gather_facts
from trainer_ext.loading.student import load_peft_config, load_student
from trainer_ext.loading.teacher import load_teacher
from trainer_ext.loading.zero3 import shards_parameters, without_zero3_init
from trainer_ext.memory.callback import MemoryCallback
from trainer_ext.memory.from_prompts import plan_prompts
from trainer_ext.memory.from_trainer import plan_training
from trainer_ext.memory.table import show_plan
from trainer_ext.parser import RecipeParser
from trainer_ext.preview import show_prompts
from trainer_ext.progress import keep_libraries_quiet, show_channels
from trainer_ext.pushing_trainer import claim_for_run
from trainer_ext.resumable_trainer import seconds_per_step
from trainer_ext.row_validation import PromptLength, check_rows
from trainer_ext.students.base import StudentFamily
from trainer_ext.students.registry import load_student_family
from trainer_ext.trainer import CrossModalDistillTrainer

SMALL_STEP = 1e-4  # of a full fine-tune; half the distance between neighbors of a bfloat16 weight is 2^-9 of it
TINY_LAB = Path(__file__).parent / "configs" / "tiny.yaml"


def main() -> None:
    started = time.monotonic()
    parser = RecipeParser(
        (ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig),
        TINY_LAB,
        alternatives=[("dataset_name", "questions")],
    )
    model, data, soft, training = parser.parse_args_and_config()
    keep_libraries_quiet()
    parser.check_teacher_named()
    resume = read_resume(training.resume_from_checkpoint)
    check_before_work(training, resume)
    state = PartialState()
    if state.is_main_process and training.push_to_hub and not data.dry_run:
        check_push(model, training)
    if state.is_main_process and not data.dry_run:
        claim_output_dir(training.output_dir, resume is not None, training.overwrite_output_dir)
    if state.is_main_process:
        show_header(parser, model, training)
    if state.device.type == "cpu" and state.num_processes == 1:
        use_all_cores()
    assert model.model_name_or_path is not None
    family = load_student_family(model.model_name_or_path, model.model_revision)
    peft_config = load_peft_config(model, family)  # its errors come before the data
    check = PromptLength(family, training.max_length)
    if data.dry_run:
        show_preview(model, data, training, family, check)
        return
    with state.main_process_first(), without_zero3_init(training):
        sounds = load_sounds(data)  # its errors come before the pairs are built
        name = locate_pairs(data, model.teacher, check, training.allowed_rejected_share)
        pairs = read_pairs(name, data.speech_column, data.dataset_revision)
        if sounds is not None:
            pairs = add_sounds(pairs, sounds, data.sound_share, train=SOUND_CHANNEL in training.channels)
    if training.eval_strategy != "no" and "test" not in pairs:
        raise ValueError(f"eval_strategy is {training.eval_strategy}, but the data has no split 'test'")
    held_out = find_held_out(pairs.get("test"), data, training)

    trainer = load_trainer(model, soft, training, family, pairs, peft_config)
    if state.is_main_process:
        pair_source = data.dataset_name or data.questions, data.dataset_revision
        sound_source = data.sound_dataset_name, data.sound_dataset_revision
        trainer.run_facts = gather_facts(trainer.run_facts, model, training, peft_config, pair_source, sound_source)
        show_left_out(trainer, Path(name), Path(training.output_dir))
    memory = MemoryCallback(plan_training(trainer, model, soft.soft_targets_k))
    trainer.add_callback(memory)
    show_channels(trainer)
    trainer.find_checkpoint(resume)  # its errors come before the scores
    measure(trainer, held_out, BEFORE)
    if training.overwrite_output_dir and state.is_main_process:
        replace_earlier_run(Path(training.output_dir))
    if state.is_main_process:
        write_run_record(Path(training.output_dir), parser.resolved)
    state.wait_for_everyone()
    trainer.train(resume_from_checkpoint=resume)
    measure(trainer, held_out, AFTER)

    trainer.save_model()
    trainer.save_state()
    report = None
    folder = Path(training.output_dir)
    if state.is_main_process and held_out is not None and held_out.answers:
        report = show_run(held_out, trainer, memory, time.monotonic() - started)
    if state.is_main_process:
        trainer.run_facts = replace(
            trainer.run_facts,
            seconds=time.monotonic() - started,
            report=report,
            scores=write_markdown(report) if report else None,
            eval_results=tuple(make_model_index(report, AFTER)) if report else (),
        )
    trainer.create_model_card()
    if state.is_main_process:
        print(f"saved to {folder}")
    if training.push_to_hub and (url := trainer.push_to_hub()):
        print(f"pushed to {url}")


def check_before_work(training: CrossModalDistillConfig, resume: str | bool | None) -> None:
    """Raise ValueError for what would be found only after data were built and models loaded."""
    if isinstance(resume, str) and (fault := find_corruption(Path(resume))):
        raise ValueError(f"cannot resume from {resume}: {fault}")
    if training.evaluator is not None:
        check_evaluator(training.evaluator)
    try:
        get_reporting_integration_callbacks(training.report_to)
    except (RuntimeError, ImportError) as error:  # not installed
        raise ValueError(f"report_to: {error}") from error


def check_push(model: ModelArguments, training: CrossModalDistillConfig) -> None:
    """Claim the repository, and say what strangers will not be able to load."""
    base = model.model_name_or_path
    assert base is not None
    claimed = claim_for_run(training, base, model.use_peft)
    print(f"push     {claimed.id}, {training.hub_strategy}", flush=True)
    if is_local(base) and training.hub_base_model_id is None:
        print(
            f"warning  {base} is a local folder: the card will name the base {public_name(base)!r}, which nobody else "
            "can load. --hub_base_model_id names its id on the Hub"
        )


def show_header(parser: RecipeParser, model: ModelArguments, training: CrossModalDistillConfig) -> None:
    """Print what the run is about: config, student, teacher, device."""
    teacher = "" if model.teacher_model_name_or_path is None else f": {model.teacher_model_name_or_path}"
    print(f"config   {parser.describe_source()}")
    print(f"student  {model.model_name_or_path}{'' if model.use_peft else ', all of the language model'}")
    print(f"teacher  {training.teacher_kind}{teacher}")
    if not model.use_peft and str(model.dtype) in ("bfloat16", "auto") and training.learning_rate < SMALL_STEP:
        print(
            f"warning  steps of {training.learning_rate:g} round away in bfloat16 weights, which have 8 bits: set "
            "dtype: float32 (bf16: true computes in bfloat16 all the same)"
        )
    print(f"device   {training.device}, {training.world_size} process{'es' if training.world_size > 1 else ''}")


def show_preview(
    model: ModelArguments,
    data: DataArguments,
    training: CrossModalDistillConfig,
    family: StudentFamily,
    check: PromptLength,
) -> None:
    """Print counts, reasons, three rows as the student reads them, tokens and the memory plan; nothing is made."""
    sounds = load_sounds(data) if SOUND_CHANNEL in training.channels else None
    if data.dataset_name is None:
        questions = QuestionArguments(
            questions=data.questions,
            filter_unspeakable=False,
            max_rejected_share=training.allowed_rejected_share,
            test_share=data.test_share,
        )
        preview = preview_questions(questions, (1, 1), check)
        counts, rows, seconds = preview.counts, list(preview.rows), list(preview.speech_seconds)
        if sounds is not None:
            rows += list(sounds["train"].remove_columns("audio"))
            seconds += [0.0] * len(sounds["train"])
    else:
        pairs = read_pairs(data.dataset_name, data.speech_column, data.dataset_revision)
        split = (pairs if sounds is None else add_sounds(pairs, sounds, data.sound_share))["train"]
        clips = [name for name, feature in split.features.items() if isinstance(feature, datasets.Audio)]
        rows = list(split.remove_columns(clips))
        checked = check_rows(split, family, None, training.channels, training.hard_targets, training.max_length)
        codes = [entry.code for entry in checked.rejected.values()]
        counts = {"read": len(rows), "kept": len(rows) - len(codes), **collections.Counter(codes)}
        seconds = [row.get("speech_seconds") or 0.0 for row in rows]
    show_outcomes({"questions": counts})
    prompts = show_prompts(rows, seconds, family, training.channels)
    longest = max(max(seconds), *(row.get("audio_seconds") or 0.0 for row in rows))
    plan = plan_prompts(model, training, family, list(prompts.values()), longest, data.answer_max_new_tokens)
    show_plan(plan.parts)


def show_left_out(trainer: CrossModalDistillTrainer, data: Path, output: Path) -> None:
    """Print the questions and rows that are left out, by stage and reason, and where they are listed.

    Args:
        data: the data set's folder, if it is one; its builder lists what it dropped there.
        output: the run's folder; rows that the student cannot be trained on are listed in rejected_rows.jsonl.
    """
    manifest = read_manifest(data) if (data / MANIFEST).is_file() else None
    counts = {} if manifest is None else {**manifest["counts"], "splits": manifest["rows"]}
    lists = [] if manifest is None else [f"{data}/dropped.parquet", f"{data}/rejected"]
    if rejected := trainer.checked_rows.rejected:
        codes = collections.Counter(entry.code for entry in rejected.values())
        counts["training"] = {"kept": len(trainer.train_dataset), **codes}
        file = output / "rejected_rows.jsonl"
        lines = [json.dumps({"id": row_id, **asdict(entry)}) for row_id, entry in rejected.items()]
        write_atomic(file, "".join(f"{line}\n" for line in lines).encode())
        lists.append(str(file))
    reasons = {code for stage in ("questions", "rows", "training") for code in counts.get(stage, {})}
    if others := sorted(set(counts.get("splits", {})) - {"train", "test"}):
        print(f"rows of the splits {', '.join(others)} are not used: a run trains on train and scores test")
    if reasons - {"read", "kept"}:
        show_outcomes(counts)
        print(f"what is left out is listed in {', '.join(name for name in lists if Path(name).exists())}")


def load_trainer(
    model: ModelArguments,
    soft: SoftTargetArguments,
    training: CrossModalDistillConfig,
    family: StudentFamily,
    pairs: datasets.DatasetDict,
    peft_config: PeftConfig | None,
) -> CrossModalDistillTrainer:
    """Load teacher, student and trainer; the teacher first, because stored soft targets may not fit the run."""
    fingerprint = None
    if training.teacher_kind == "stored" and model.teacher is not None:
        fingerprint = fingerprint_model(model.teacher.name_or_path, model.teacher.revision)
    with without_zero3_init(training):
        teacher = load_teacher(
            training, family, model.teacher, soft.soft_targets_path, soft.soft_targets_k, fingerprint
        )
        student = load_student(model, family, sharded=shards_parameters(training))
    return CrossModalDistillTrainer(
        model=student,
        args=training,
        family=family,
        teacher=teacher,
        train_dataset=pairs["train"],
        eval_dataset=choose_eval_rows(pairs["test"], training) if training.eval_strategy != "no" else None,
        peft_config=peft_config,
    )


def choose_eval_rows(test: datasets.Dataset, training: CrossModalDistillConfig) -> datasets.Dataset:
    """Return the rows of evaluations during training: all of them, or `max_eval_samples` spread over all."""
    count = training.max_eval_samples
    if count is None or count >= len(test):
        return test
    return test.select([i * len(test) // count for i in range(count)])


def find_held_out(
    test: datasets.Dataset | None, data: DataArguments, training: CrossModalDistillConfig
) -> HeldOut | None:
    """Return the held-out questions that are asked before and after training; None, with a message, for none."""
    rows = select_held_out(test)
    if rows is None:
        print("no scores, of sounds either: the data set has no `test` rows with speech and `teacher_response`")
        return None
    return HeldOut(
        rows, training.evaluator, data.answer_max_new_tokens, Path(training.output_dir), training.seed,
        select_sounds(test),
    )  # fmt: skip


def measure(trainer: CrossModalDistillTrainer, held_out: HeldOut | None, label: str) -> None:
    """Ask the student the held-out questions, and measure forgetting and misalignment on them."""
    if held_out is None:
        return
    if trainer.is_sharded:
        print("no scores: the model is sharded over processes, which cannot generate together; score the saved model")
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    held_out.ask(label, model, trainer.family, {"run": trainer.identity, "weights": hash_weights(model)})
    batch_size = trainer.args.per_device_eval_batch_size
    found = measure_divergences(model, trainer.family, held_out.rows, trainer.teacher, batch_size)
    held_out.divergences[label] = found


def show_run(
    held_out: HeldOut, trainer: CrossModalDistillTrainer, memory: MemoryCallback, seconds: float
) -> dict[str, Any]:
    """Write report.json, pictures and the page of answers, and print the table; returns the report."""
    report = held_out.report(
        seconds=round(seconds, 1),
        steps=trainer.state.global_step,
        seconds_per_step=round(seconds_per_step(trainer), 4),
        seed=trainer.args.seed,
        cpu_threads=torch.get_num_threads(),
        device=str(trainer.args.device),
        peak_memory_gib=round((memory.measured or 0) / 2**30, 2),
        planned_memory_gib=round(memory.plan.total / 2**30, 2),
    )
    plot_training(held_out.folder / "loss.png", trainer.state.log_history)
    show_lines(report)
    print(f"questions, clips and answers side by side: {held_out.items_folder}/index.html")
    return report


def read_resume(value: str | None) -> str | bool | None:
    """Convert `--resume_from_checkpoint`: true means the newest complete checkpoint, anything else is a folder."""
    words = {"true": True, "false": None}
    return value if value is None else words.get(value.lower(), value)


def use_all_cores() -> None:
    """Undo `accelerate launch`'s one thread per process, which slows a single process on a CPU by a third."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # set by the launcher, as was OMP_NUM_THREADS
        torch.set_num_threads(os.cpu_count() or 1)


if __name__ == "__main__":
    run_command(main)
