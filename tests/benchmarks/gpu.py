"""Peak memory and speed of a recipe on a GPU: real shapes, random weights, TRL's SFTTrainer beside it.

    python tests/benchmarks/gpu.py --config recipes/configs/omni7b_qlora_stored.yaml --cap_gib 12
    python tests/benchmarks/gpu.py --config recipes/configs/omni7b_qlora.yaml --cap_gib 16
    python tests/benchmarks/gpu.py --config recipes/configs/omni7b_qlora.yaml --trainer ours --profile kernels.txt
    python tests/benchmarks/gpu.py --config recipes/configs/tiny_qlora.yaml            # the same on a CPU, small

Checkpoints in the published layout are written into --folder first (33 GB for the 7B models) and loaded as the recipe
loads them. Every question is asked by 20 s of noise and answered until its row is full. Each trainer has a process of
its own; one micro-batch a step. `--profile` writes the operations of two more steps, by their time. Further arguments
are the recipe's own, such as `--per_device_train_batch_size 8`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetInfo
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from trl import SFTTrainer

from data_builders.arguments import DataArguments, SoftTargetArguments
from data_builders.audio import encode_speech
from data_builders.chat import hash_question, hash_tokens, hash_vocabulary
from data_builders.schema import FEATURES, SOFT_TARGET_FEATURES, SPEECH_RATE_HZ
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.collator import PairCollator
from trainer_ext.loading.student import load_peft_config, load_student
from trainer_ext.loading.teacher import load_teacher
from trainer_ext.memory.callback import measure_now, measure_peak, reset_peak
from trainer_ext.memory.from_trainer import plan_training
from trainer_ext.memory.gpus import find_present_gpu
from trainer_ext.memory.plan import WEIGHTS
from trainer_ext.memory.throughput import count_flops
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.base import StudentEncoder
from trainer_ext.students.registry import find_student_family, load_student_family
from trainer_ext.trainer import CrossModalDistillTrainer

ROOT = Path(__file__).parents[2]
LAB = ROOT / "recipes" / "tiny_lab"
MODELS = ROOT / "recipes" / "model_configs"
SHARD_BYTES = 5 * 10**9
SPEECH_SECONDS = 20
WARM_UP_STEPS = 3
PROFILED_STEPS = 2


def write_student(name: str, folder: Path) -> Path:
    """Write a full checkpoint of the published sizes with the lab's tokenizer; only the thinker has weights."""
    family, config = find_student_family(str(MODELS / name))
    lab = AutoConfig.from_pretrained(LAB / "student")
    for key in ("audio_token_index", "audio_start_token_id", "audio_end_token_id"):
        setattr(config, key, getattr(lab, key))
    empty_model = family.make_empty_model(config, torch.bfloat16)
    shapes = {family.to_checkpoint_name(key): p.shape for key, p in empty_model.named_parameters()}
    full = {"model_type": "qwen2_5_omni", "thinker_config": config.to_dict()}
    return write_checkpoint(folder, shapes, full, LAB / "student")


def write_teacher(name: str, folder: Path) -> Path:
    """Write a text LLM of the published sizes with the lab's tokenizer."""
    config = AutoConfig.from_pretrained(MODELS / name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {key: parameter.shape for key, parameter in model.named_parameters()}
    return write_checkpoint(folder, shapes, config.to_dict(), LAB / "teacher")


def write_checkpoint(folder: Path, shapes: dict, config: dict, tokenizer: Path) -> Path:
    """Write random weights in shards, unless the folder exists."""
    if folder.exists():
        return folder
    aside = folder.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    files = 0
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        weight = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=0.02)
        shard[name] = (weight + 1 if "norm" in name else weight).cpu()
        if sum(t.nbytes for t in shard.values()) > SHARD_BYTES or number == len(shapes):
            files += 1
            file = f"model-{files:05d}.safetensors"
            save_file(shard, aside / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            shard = {}
    (aside / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (aside / "config.json").write_text(json.dumps(config, default=str))
    for file in tokenizer.iterdir():
        if not file.name.startswith(("config", "model", "generation")):
            shutil.copy(file, aside / file.name)
    aside.rename(folder)
    return folder


def make_rows(family: StudentEncoder, max_length: int, speech_seconds: float, rows: int) -> Dataset:
    """Return so many rows with noise as speech and answers of the greatest length."""
    generator = np.random.default_rng(0)
    prompt = family.encode_speech_prompt(int(speech_seconds * SPEECH_RATE_HZ), "")
    words = "seven " * (max_length - len(prompt))
    while len(family.encode_response(words)) + len(prompt) > max_length:
        words = words[: -len("seven ")]
    question = "What is " + "one plus " * int(speech_seconds) + "one?"
    table = pa.Table.from_pylist(
        [
            {
                "id": f"row-{number}",
                "source": "noise",
                "system": "",
                "question": question,
                "teacher_response": words.strip(),
                "channels": ["t2t", "s2t"],
                "speech": {
                    "bytes": encode_speech(generator.normal(size=int(speech_seconds * SPEECH_RATE_HZ)) / 10),
                    "path": None,
                },
                "speech_seconds": speech_seconds,
            }
            for number in range(rows)
        ],
        schema=FEATURES.arrow_schema,
    )
    return Dataset(table, info=DatasetInfo(features=FEATURES))


def make_soft_targets(folder: Path, rows: Dataset, family: StudentEncoder, k: int, temperature: float) -> str:
    """Write random soft targets of the right size over the student's whole vocabulary."""
    generator = np.random.default_rng(0)
    vocabulary = family.vocab_size
    made = []
    for row in rows:
        response = family.encode_response(row["teacher_response"])
        ids = np.stack([generator.choice(vocabulary, k, replace=False) for _ in response]).ravel()
        log_probs = -np.sort(generator.uniform(5, 12, size=(len(response), k)), axis=1)
        made.append(
            {
                "id": row["id"],
                "question_hash": hash_question(row["question"], row["system"]),
                "prompt_hash": "",
                "response_hash": hash_tokens(response),
                "teacher": "nobody",
                "scoring_backend": "chance",
                "tokenizer_hash": hash_vocabulary(family.tokenizer),
                "vocab_size": vocabulary,
                "k": k,
                "temperatures": [temperature],
                "ids_low": (ids & 0xFFFF).tolist(),
                "ids_high": (ids >> 16).tolist(),
                "log_probs": log_probs.ravel().tolist(),
                "log_tails": [-0.1] * len(response),
            }
        )
    shutil.rmtree(folder, ignore_errors=True)
    Dataset.from_list(made, features=SOFT_TARGET_FEATURES).save_to_disk(str(folder))
    return str(folder)


def parse(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    parser = RecipeParser((ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig))
    words = ["--config", arguments.config, "--save_strategy", "no", "--disable_tqdm", "true"]
    steps = WARM_UP_STEPS + arguments.steps + (PROFILED_STEPS if arguments.profile else 0)
    words += ["--max_steps", str(steps), "--logging_steps", "1000"]
    words += ["--gradient_accumulation_steps", "1", "--output_dir", str(arguments.folder / "run")]
    if not torch.cuda.is_available():
        words += ["--use_cpu", "true"]
    words += arguments.recipe_words
    model, _, soft, training = parser.parse_args_and_config(words)
    folder = arguments.folder
    if (MODELS / model.model_name_or_path).is_dir():
        model.model_name_or_path = str(
            write_student(model.model_name_or_path, folder / Path(model.model_name_or_path).name)
        )
        if training.teacher_kind == "model":
            name = model.teacher_model_name_or_path
            model.teacher_model_name_or_path = str(write_teacher(name, folder / Path(name).name))
    else:  # the lab: a smaller row
        training.max_length = 256
    return model, soft, training


class PlainRows:
    """Collator of the student's rows and labels alone, for TRL's SFTTrainer."""

    def __init__(self, family: StudentEncoder) -> None:
        self.pairs = PairCollator(family, None)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return {key: value for key, value in self.pairs(rows).items() if torch.is_tensor(value)}


def train(arguments: argparse.Namespace) -> None:
    """Train for the steps; prints peak memory and time as JSON."""
    model, soft, training = parse(arguments)
    if arguments.cap_gib is not None and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(arguments.cap_gib * 2**30 / whole)
    family = load_student_family(model.model_name_or_path)
    seconds = SPEECH_SECONDS if training.max_length > 512 else 3
    # One epoch: a second one would start the data loader's workers again.
    rows = make_rows(family, training.max_length, seconds, training.max_steps * training.per_device_train_batch_size)
    student = load_student(model, family)
    planned = flops = None
    if arguments.trainer == "trl":
        trainer: Any = SFTTrainer(
            model=student,
            args=training,
            data_collator=PlainRows(family),
            train_dataset=rows,
            processing_class=family.tokenizer,
            peft_config=load_peft_config(model, family),
        )
    else:
        soft_targets = None
        if training.teacher_kind == "stored":
            soft_targets = make_soft_targets(
                arguments.folder / "soft", rows, family, soft.soft_targets_k, training.temperature
            )
        teacher = load_teacher(training, family, model.teacher, soft_targets, soft.soft_targets_k)
        trainer = CrossModalDistillTrainer(
            model=student,
            args=training,
            family=family,
            teacher=teacher,
            train_dataset=rows,
            peft_config=load_peft_config(model, family),
        )
        plan = plan_training(trainer, model, soft.soft_targets_k)
        planned = plan.total
        flops = count_flops(plan, bool(training.activation_checkpointing), not model.use_peft)
    stamps: list[float] = []
    original = trainer.training_step
    timed = WARM_UP_STEPS + arguments.steps
    profiler = torch.profiler.profile()  # of every kind of device here

    def stamped(*args, **kwargs):
        if arguments.profile and len(stamps) == timed:
            profiler.start()
        loss = original(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        if len(stamps) == timed + PROFILED_STEPS:
            profiler.stop()
        return loss

    trainer.training_step = stamped
    reset_peak(training.device)
    if planned and not torch.cuda.is_available():
        planned += measure_now() - sum(plan.parts.get(name, 0) for name in WEIGHTS)
    trainer.train()
    step_seconds = (stamps[timed - 1] - stamps[WARM_UP_STEPS - 1]) / arguments.steps
    batch = trainer.data_collator([rows[i] for i in range(training.per_device_train_batch_size)])
    gpu = find_present_gpu()
    share = None
    if flops and gpu and gpu.bf16_tflops:
        share = flops / step_seconds / (gpu.bf16_tflops * 1e12)
    figures = {
        "trainer": arguments.trainer,
        "tokens": int(batch["attention_mask"].sum()),
        "planned_gib": planned and planned / 2**30,
        "peak_gib": measure_peak(training.device) / 2**30,
        "step_seconds": step_seconds,
        "share_of_peak": share,
    }
    print(json.dumps(figures), flush=True)
    if arguments.profile:  # takes minutes after large batches
        by_time = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        arguments.profile.write_text(profiler.key_averages().table(sort_by=by_time, row_limit=60))


def show(lines: list[dict[str, Any]]) -> None:
    print("| trainer | planned, GiB | measured, GiB | s a step | tokens a second | of the card's peak |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        cells = [
            line["planned_gib"] and f"{line['planned_gib']:.2f}",
            f"{line['peak_gib']:.2f}" if "peak_gib" in line else line["failed"],
            "step_seconds" in line and f"{line['step_seconds']:.3f}",
            "step_seconds" in line and f"{line['tokens'] / line['step_seconds']:,.0f}",
            line.get("share_of_peak") and f"{line['share_of_peak']:.1%}",
        ]
        print(f"| {line['trainer']} | {' | '.join(cell or '' for cell in cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "recipes" / "configs" / "tiny_qlora.yaml"))
    parser.add_argument("--cap_gib", type=float, help="memory of the card that is played")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks/gpu"))
    parser.add_argument("--trainer", choices=("ours", "trl"), help="one of them, in this process")
    parser.add_argument("--profile", type=Path, help="file for the operations by their time")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    arguments, arguments.recipe_words = parser.parse_known_args()
    if arguments.smoke:
        arguments.steps = 1
    keep_libraries_quiet()
    if arguments.trainer is not None:
        train(arguments)
        return
    lines = []
    for trainer in ("ours", "trl"):
        command = [sys.executable, __file__, *sys.argv[1:], "--trainer", trainer]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            lines.append(json.loads(done.stdout.splitlines()[-1]))
        else:
            reason = done.stderr.strip().splitlines()[-1]
            lines.append({"trainer": trainer, "planned_gib": None, "failed": reason[:80]})
    show(lines)


if __name__ == "__main__":
    main()
