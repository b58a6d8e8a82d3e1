"""Make a text LLM hear: graft a speech encoder to it, align the two, adapt it to speech, and measure it.

    text LLM + speech encoder -> graft -> align (CTC) -> adapt (speech) -> check -> recipes/s2t_t2t.py heals it

    python recipes/build_data.py --config recipes/configs/data/nano_smollm2.yaml
    python recipes/nano_omni/make_omni.py --config recipes/configs/nano/smollm2.yaml
    accelerate launch recipes/s2t_t2t.py --config recipes/configs/nano_smollm2.yaml
    python recipes/nano_omni/make_omni.py --config recipes/configs/nano/smollm2.yaml --adapters outputs/nano_smollm2

Each stage writes a folder below `output_dir`. A second run goes on where the first one stopped.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from adapt import make_tasks
from align import AlignCollator, Aligner, read_clips, train_aligner
from align_memory import plan_align
from arguments import OmniArguments
from card import write_card
from check import check
from compare import compare_encoder, compare_text
from datasets import DatasetDict, concatenate_datasets
from graft import graft
from stages import StageFolders, StageRunner
from thinker import load_thinker
from tower_states import StatesOnDisk, write_states
from transformers import TrainingArguments

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.audio import decode_speech
from data_builders.storage.call_cache import content_key
from data_builders.storage.dataset_folder import load_dataset_folder
from data_builders.storage.run_record import write_run_record
from trainer_ext.arguments import NO_TEACHER, CrossModalDistillConfig, ModelArguments
from trainer_ext.checkpoints.output_dir import claim_folder
from trainer_ext.command_line import run_command
from trainer_ext.evaluation.clip_errors import count_errors
from trainer_ext.memory.callback import MemoryCallback, measure_peak, reset_peak
from trainer_ext.memory.from_trainer import plan_training
from trainer_ext.memory.table import show_plan
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet, show_channels
from trainer_ext.students.registry import load_student_family
from trainer_ext.trainer import CrossModalDistillTrainer

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "nano" / "smollm2.yaml"
SPLITS = ("train", "test")
HASHED = ["id", "system", "question", "teacher_response", "channels", "speech_seconds"]
SHOWN = 3  # held-out clips, and what is read in them


def main() -> None:
    parser = RecipeParser((OmniArguments,), DEFAULT_CONFIG, named_by=("text_model_name_or_path",))
    (arguments,) = parser.parse_args_and_config()
    keep_libraries_quiet()
    folder = Path(arguments.output_dir)
    claim_folder(folder)
    write_run_record(folder, parser.resolved)
    rows = load_rows(arguments.dataset_names)
    runner = StageRunner(folder, arguments.overwrite_output_dir)
    runner.run("graft", describe_parts(arguments), lambda folders: run_graft(arguments, rows, folders))
    heard = {"rows": hash_rows(rows)}
    if arguments.align_steps:
        runner.run("align", choose(arguments, "align") | heard, lambda folders: run_align(arguments, rows, folders))
    if arguments.adapt_steps:
        runner.run("adapt", choose(arguments, "adapt") | heard, lambda folders: run_adapt(arguments, rows, folders))
    report = check(
        str(runner.latest), arguments.adapters, arguments.text_model_name_or_path, rows["test"], folder / "check",
        arguments.max_new_tokens, arguments.seed,
    )  # fmt: skip
    if not arguments.adapters:  # whose scores are not the model's
        write_card(
            runner.latest, arguments.text_model_name_or_path, arguments.speech_encoder_name_or_path,
            arguments.dataset_names, len(rows["train"]), runner.figures, report,
        )  # fmt: skip


def load_rows(names: list[str]) -> DatasetDict:
    """Load the data sets, their rows behind each other.

    Raises:
        ValueError: one has no split `train` or `test`.
    """
    loaded = [load_dataset_folder(name) for name in names]
    for name, splits in zip(names, loaded, strict=True):
        if missing := sorted(set(SPLITS) - set(splits)):
            raise ValueError(
                f"{name} has no split {', '.join(missing)}: build it with test_share, or mark rows by `split`"
            )
    return DatasetDict({split: concatenate_datasets([splits[split] for splits in loaded]) for split in SPLITS})


def describe_parts(arguments: OmniArguments) -> dict[str, Any]:
    """Return what the grafted weights depend on."""
    names = (arguments.text_model_name_or_path, arguments.speech_encoder_name_or_path)
    return {"parts": [fingerprint_model(name, "main") for name in names], "extra_layers": arguments.extra_layers}


def choose(arguments: OmniArguments, stage: str) -> dict[str, Any]:
    """Return what the weights of a training stage depend on."""
    shared = ("seed", "bf16")
    return {name: value for name, value in asdict(arguments).items() if name.startswith(f"{stage}_") or name in shared}


def hash_rows(rows: DatasetDict) -> str:
    """Return a hash of all rows but their clips, of which it has the lengths."""
    return content_key({split: part.select_columns(HASHED)[:] for split, part in rows.items()})


def run_graft(arguments: OmniArguments, rows: DatasetDict, folders: StageFolders) -> dict[str, Any]:
    """Write the grafted thinker, and compare its text logits and its encoder with the originals'."""
    text, encoder = arguments.text_model_name_or_path, arguments.speech_encoder_name_or_path
    graft(text, encoder, folders.target, arguments.extra_layers)
    seconds = rows["test"]["speech_seconds"]
    longest = rows["test"][max(range(len(seconds)), key=seconds.__getitem__)]
    states = compare_encoder(encoder, folders.target, decode_speech(longest["speech"], longest["id"]))
    return {
        "largest difference of text logits": compare_text(text, folders.target),
        **{f"relative difference of Whisper's states ({name})": f"{value:.2g}" for name, value in states.items()},
    }


def run_align(arguments: OmniArguments, rows: DatasetDict, folders: StageFolders) -> dict[str, Any]:
    """Train the tower's new layers and its projector, and read the held-out clips by them."""
    family = load_student_family(str(folders.previous))
    model = load_thinker(folders.previous)
    tower = model.model.audio_tower
    dtype = tower.dtype
    frozen = len(tower.layers) - arguments.extra_layers
    training = TrainingArguments(
        output_dir=str(folders.unfinished / "training"),
        max_steps=arguments.align_steps,
        per_device_train_batch_size=arguments.align_batch_size,
        learning_rate=arguments.align_learning_rate,
        **shared_training_arguments(arguments),
    )
    tower.to(training.device, torch.float32)
    states = {}
    for split, part in rows.items():
        if not (folders.unfinished / split).is_dir():
            write_states(model, frozen, family, part, folders.unfinished / split)
        states[split] = StatesOnDisk(folders.unfinished / split, tower.config.d_model, family)
    collator = AlignCollator(states["train"])
    embeddings = model.get_input_embeddings().weight.detach()[collator.tokens.names].float()
    aligner = Aligner(tower, frozen, embeddings, len(collator.letters.names))
    planned = plan_align(aligner, states["train"], arguments.align_batch_size, model)
    show_plan(planned)
    reset_peak(training.device)
    train_aligner(aligner, states["train"], collator, training, choose(arguments, "align"))
    show_plan(planned, measure_peak(training.device))
    read, spelled = read_clips(aligner, states["test"], collator, family.tokenizer)
    for text, *found in list(zip(states["test"].texts, read, spelled, strict=True))[:SHOWN]:
        print(f"  {text!r} is read as {found[0]!r}, and spelled {found[1]!r}")
    tower.to("cpu", dtype)
    model.save_pretrained(folders.target)
    family.save_pretrained(str(folders.target))
    texts = states["test"].texts
    return {"word error rate": word_error_rate(read, texts), "spelled": word_error_rate(spelled, texts)}


def run_adapt(arguments: OmniArguments, rows: DatasetDict, folders: StageFolders) -> dict[str, Any]:
    """Train the language model on spoken questions and clips to repeat; the tower stays as it is."""
    family = load_student_family(str(folders.previous))
    training = CrossModalDistillConfig(
        output_dir=str(folders.unfinished),
        teacher_kind=NO_TEACHER,
        max_steps=arguments.adapt_steps,
        per_device_train_batch_size=arguments.adapt_batch_size,
        learning_rate=arguments.adapt_learning_rate,
        activation_checkpointing=arguments.activation_checkpointing,
        **shared_training_arguments(arguments),
    )
    begun = folders.unfinished.is_dir()
    trainer = CrossModalDistillTrainer(
        model=family.load_model(str(folders.previous), dtype=torch.float32),
        args=training,
        family=family,
        teacher=None,
        train_dataset=make_tasks(
            rows["train"], arguments.adapt_repeat_share, arguments.adapt_text_share, arguments.seed
        ),
    )
    model = ModelArguments(model_name_or_path=str(folders.previous), dtype="float32", use_peft=False)
    trainer.add_callback(MemoryCallback(plan_training(trainer, model)))
    show_channels(trainer)
    trainer.train(resume_from_checkpoint=begun)
    trainer.save_model(str(folders.target))
    return {"loss": trainer.state.log_history[-1]["train_loss"]}


def word_error_rate(found: list[str], wanted: list[str]) -> float:
    """Return wrong words / words of all texts, normalized as Whisper's are."""
    counts = count_errors(found, wanted)
    return round(sum(wrong for wrong, _ in counts) / sum(words for _, words in counts), 4)


def shared_training_arguments(arguments: OmniArguments) -> dict[str, Any]:
    """Return the arguments of both trainings."""
    return {
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "logging_steps": 50,
        "save_steps": 200,
        "save_total_limit": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": arguments.bf16,
        "report_to": "none",
        "disable_tqdm": False,  # unset, it follows the verbosity, which keep_libraries_quiet lowers
        "seed": arguments.seed,
    }


if __name__ == "__main__":
    run_command(main)
