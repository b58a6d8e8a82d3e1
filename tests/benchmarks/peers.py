"""A training step beside what people would write: seconds, tokens, memory; the same rows, student, teacher, optimizer.

    afternoon     clips padded to 300 s as the official processor pads them, each channel and its teacher in passes of
                  their own, padded batches, full logits of both models, F.kl_div
    careful       the same with clips padded to the longest
    sft           TRL's SFTTrainer: cross entropy on both channels, no teacher, clips padded to the longest
    gkd           TRL's GKD loss on the text channel alone, full logits
    live, stored, none    CrossModalDistillTrainer, by its kind of teacher

    python tests/benchmarks/peers.py                                             # the tiny lab, 8 questions a step
    python tests/benchmarks/peers.py --config recipes/configs/nano_smollm2.yaml --questions 1 --speech_seconds 10

Each is a process of its own, and they take turns of a few steps; ratios are of turns of the same round. Other
arguments are the recipe's.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2_5OmniThinkerForConditionalGeneration, TrainerCallback
from trl import SFTConfig, SFTTrainer

from data_builders.arguments import DataArguments, SoftTargetArguments
from data_builders.audio import decode_speech, encode_speech
from data_builders.pairs import load_pairs
from data_builders.schema import SPEECH_RATE_HZ
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.loading.student import load_peft_config, load_student
from trainer_ext.loading.teacher import load_teacher
from trainer_ext.loss.alignment import pad_rows
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.encode_row import encode_row
from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent
from trainer_ext.students.registry import load_student_family
from trainer_ext.trainer import CrossModalDistillTrainer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.lab import write_every  # noqa: E402

RECIPES = ROOT / "recipes"
TINY = RECIPES / "configs" / "tiny.yaml"
OURS = ("live", "stored", "none")
CONTESTANTS = ("afternoon", "careful", "sft", "gkd", *OURS)
KINDS = {"live": "model", "stored": "stored", "none": "none"}
OFFICIAL_SECONDS = 300  # of Qwen2_5OmniProcessor's feature extractor
IGNORED = -100
WARM_UP_STEPS = 2


@dataclasses.dataclass
class Setting:
    """Recipe and rows, the same for all contestants."""

    model: ModelArguments
    soft: SoftTargetArguments
    training: CrossModalDistillConfig
    family: Qwen2_5OmniStudent
    rows: Dataset

    @property
    def device(self) -> torch.device:
        return self.training.device


class Turns:
    """Makes the steps of a process take turns with those of others.

    Args:
        steps: of one turn, which begins with a line on standard input and ends with one on `output`.
    """

    def __init__(self, steps: int, output: TextIO) -> None:
        self.steps, self.output, self.done, self.started = steps, output, -WARM_UP_STEPS, time.perf_counter()

    def begin_step(self) -> None:
        """Wait at the end of a turn until the next one begins; ends the process when there is none."""
        if self.done >= 0 and self.done % self.steps == 0:
            seconds = (time.perf_counter() - self.started) / self.steps
            print(json.dumps({"seconds": seconds, "gib": measure_peak_gib()}), file=self.output, flush=True)
            if not sys.stdin.readline().strip():
                os._exit(0)  # no last save, no summary
            self.started = time.perf_counter()
        self.done += 1


class TurnCallback(TrainerCallback):
    """Gives a trainer's steps their turns."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.turns.begin_step()


def measure_peak_gib() -> float:
    """Return the peak memory of the card, or of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# What a researcher would write


def encode_channel(family: Qwen2_5OmniStudent, rows: list[dict], channel: str, pad_seconds: int | None) -> dict:
    """Return a padded batch of one channel with `labels`.

    Args:
        pad_seconds: length that every clip is padded to; None pads to the longest.
    """
    clips = [decode_speech(row["speech"], row["id"]) for row in rows] if channel == "s2t" else [np.zeros(0)] * len(rows)
    prompts = [encode_row(family, row, channel, len(clip)) for row, clip in zip(rows, clips, strict=True)]
    responses = [family.encode_response(row["teacher_response"]) for row in rows]
    batch = pad_rows(prompts, responses, family.tokenizer.pad_token_id)
    if channel == "s2t":
        # In whole frames: the extractor rounds the longest clip's frames down, and the prompt counts them rounded up.
        padding = {"padding": "longest", "pad_to_multiple_of": family.feature_extractor.hop_length}
        if pad_seconds is not None:
            padding = {"padding": "max_length", "max_length": pad_seconds * SPEECH_RATE_HZ}
        features = family.feature_extractor(
            clips, sampling_rate=SPEECH_RATE_HZ, return_attention_mask=True, return_tensors="pt", truncation=False,
            **padding,
        )  # fmt: skip
        batch["input_features"] = features["input_features"]
        batch["feature_attention_mask"] = features["attention_mask"]
    return batch


def distill(student_logits: Tensor, student_labels: Tensor, teacher_logits: Tensor, teacher_labels: Tensor, args):
    """Return CE + kl_weight * temperature^2 * KL over the response tokens, from full logits (B, T, V).

    The KL is over the ids that both have: an Omni has rows for audio beyond its teacher's.
    """
    shared = min(student_logits.shape[-1], teacher_logits.shape[-1])
    shifted = student_labels[:, 1:]
    logits = student_logits[:, :-1]
    ce = F.cross_entropy(logits.flatten(0, 1), shifted.flatten(), ignore_index=IGNORED)
    student = F.log_softmax(logits[shifted != IGNORED][:, :shared] / args.temperature, dim=-1)
    teacher = teacher_logits[:, :-1][teacher_labels[:, 1:] != IGNORED][:, :shared] / args.temperature
    kl = F.kl_div(student, F.softmax(teacher, dim=-1), reduction="batchmean")
    return ce + args.kl_weight * args.temperature**2 * kl


def move(batch: dict, device: torch.device) -> dict:
    return {name: value.to(device) for name, value in batch.items()}


def load_peers_student(setting: Setting) -> Any:
    """Load the student as its model card says, with the recipe's LoRA."""
    name, dtype = setting.model.model_name_or_path, setting.model.dtype
    student = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(name, dtype=dtype).to(setting.device)
    return get_peft_model(student, load_peft_config(setting.model, setting.family)).train()


def load_peers_teacher(setting: Setting) -> Any:
    name = setting.model.teacher_model_name_or_path
    return AutoModelForCausalLM.from_pretrained(name, dtype=setting.model.dtype).to(setting.device).eval()


def run_loop(setting: Setting, turns: Turns, backward: Callable[[Any, Any, list[dict]], None]) -> None:
    """Train by a loop of one's own.

    Args:
        backward: adds the gradients of a step's rows, given student and teacher.
    """
    student, teacher, args = load_peers_student(setting), load_peers_teacher(setting), setting.training
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=args.learning_rate)
    for rows in iterate_batches(setting):
        turns.begin_step()
        backward(student, teacher, rows)
        torch.nn.utils.clip_grad_norm_(student.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def run_written(setting: Setting, turns: Turns, pad_seconds: int | None) -> None:
    """Train as one would write it in an afternoon."""

    def backward(student: Any, teacher: Any, rows: list[dict]) -> None:
        for channel in ("t2t", "s2t"):
            batch = move(encode_channel(setting.family, rows, channel, pad_seconds), setting.device)
            written = move(encode_channel(setting.family, rows, "t2t", None), setting.device)
            labels, teacher_labels = batch.pop("labels"), written.pop("labels")
            with torch.no_grad():
                teacher_logits = teacher(**written).logits
            student_logits = student(**batch).logits
            distill(student_logits, labels, teacher_logits, teacher_labels, setting.training).backward()

    run_loop(setting, turns, backward)


def run_gkd(setting: Setting, turns: Turns) -> None:
    """Train the text channel by the loss of TRL's GKD trainer, which knows no speech."""
    from trl.experimental.gkd import GKDTrainer  # warns at import

    def backward(student: Any, teacher: Any, rows: list[dict]) -> None:
        batch = move(encode_channel(setting.family, rows, "t2t", None), setting.device)
        labels = batch.pop("labels")
        with torch.no_grad():
            teacher_logits = teacher(**batch).logits
        student_logits = student(**batch).logits
        temperature = setting.training.temperature
        shared = min(student_logits.shape[-1], teacher_logits.shape[-1])
        student_logits, teacher_logits = (logits[:, :-1, :shared] for logits in (student_logits, teacher_logits))
        GKDTrainer.generalized_jsd_loss(
            student_logits, teacher_logits, labels[:, 1:], beta=0, temperature=temperature
        ).backward()

    run_loop(setting, turns, backward)


def iterate_batches(setting: Setting) -> Iterator[list[dict]]:
    """Yield the rows of each step, again and again."""
    size = setting.training.per_device_train_batch_size
    starts = range(0, len(setting.rows) - size + 1, size)
    for start in cycle(starts):
        yield [setting.rows[i] for i in range(start, start + size)]


# TRL


def run_sft(setting: Setting, turns: Turns) -> None:
    """Train by TRL's SFTTrainer on both channels, without a teacher."""
    family, training = setting.family, setting.training

    def collate(rows: list[dict]) -> dict:
        text, speech = (encode_channel(family, rows, channel, None) for channel in ("t2t", "s2t"))
        audio = {name: speech.pop(name) for name in ("input_features", "feature_attention_mask")}
        width = max(text["input_ids"].shape[1], speech["input_ids"].shape[1])
        fill = {"input_ids": family.tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        both = {
            name: torch.cat(
                [F.pad(part[name], (0, width - part[name].shape[1]), value=value) for part in (text, speech)]
            )
            for name, value in fill.items()
        }
        return both | audio

    shared = ("learning_rate", "per_device_train_batch_size", "output_dir", "use_cpu", "bf16", "max_steps", "seed")
    config = SFTConfig(
        **{name: getattr(training, name) for name in shared},
        dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False, report_to="none",
        disable_tqdm=True, logging_strategy="no", save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    name, dtype = setting.model.model_name_or_path, setting.model.dtype
    SFTTrainer(
        model=Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(name, dtype=dtype),
        args=config,
        data_collator=collate,
        train_dataset=setting.rows,
        processing_class=family.tokenizer,
        peft_config=load_peft_config(setting.model, family),
        callbacks=[TurnCallback(turns)],
    ).train()


# Ours


def run_ours(setting: Setting, turns: Turns) -> None:
    """Train by CrossModalDistillTrainer."""
    teacher = load_teacher(
        setting.training, setting.family, setting.model.teacher, setting.soft.soft_targets_path,
        setting.soft.soft_targets_k,
    )  # fmt: skip
    CrossModalDistillTrainer(
        model=load_student(setting.model, setting.family),
        args=setting.training,
        family=setting.family,
        teacher=teacher,
        train_dataset=setting.rows,
        peft_config=load_peft_config(setting.model, setting.family),
        callbacks=[TurnCallback(turns)],
    ).train()


# All


def parse(words: list[str]) -> tuple[ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig]:
    """Parse the recipe."""
    kinds = (ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig)
    return RecipeParser(kinds, alternatives=[("dataset_name", "questions")]).parse_args_and_config(words)


def prepare(arguments: argparse.Namespace, words: list[str], folder: Path) -> list[str]:
    """Write the rows, and what a stored teacher says of them; returns the recipe's words for them."""
    words = ["--config", arguments.config, *words]
    few = ["--questions", str(write_every(20, folder / "questions.jsonl")), "--recordings_per_question", "1"]
    model, data, _, _ = parse([*words, *(few if arguments.smoke else [])])
    rows = load_pairs(data, model.teacher)["train"]
    rows = rows.select(range(min(arguments.rows, len(rows))))
    if arguments.speech_seconds:
        rows = rows.map(lambda row: set_length(row, arguments.speech_seconds))
    DatasetDict(train=rows).save_to_disk(folder / "rows")
    words += ["--dataset_name", str(folder / "rows"), "--soft_targets_path", str(folder / "soft")]
    if "stored" in arguments.contestants:
        script = str(RECIPES / "cache_teacher.py")
        subprocess.run([sys.executable, script, *words, "--teacher_kind", "stored"], check=True, stdout=sys.stderr)
    return words


def load_setting(arguments: argparse.Namespace, words: list[str]) -> Setting:
    """Parse the recipe as a contestant runs it, and load its rows."""
    own = {
        "teacher_kind": KINDS.get(arguments.worker, "model"),
        "per_device_train_batch_size": arguments.questions,
        "max_steps": 1_000_000,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": "true",
        "output_dir": tempfile.mkdtemp(),
    }
    model, data, soft, training = parse([*words, *(word for key in own for word in (f"--{key}", str(own[key])))])
    rows = load_pairs(data, model.teacher)["train"]
    return Setting(model, soft, training, load_student_family(model.model_name_or_path), rows)


def set_length(row: dict, seconds: float) -> dict:
    """Return a row's clip cut, or repeated, to a length."""
    samples = np.resize(decode_speech(row["speech"], row["id"]), int(seconds * SPEECH_RATE_HZ))
    return {"speech": {"bytes": encode_speech(samples), "path": None}, "speech_seconds": seconds}


def work(arguments: argparse.Namespace, words: list[str]) -> None:
    """Run one contestant; its lines go to standard output, those of libraries to standard error."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    keep_libraries_quiet()
    torch.set_num_threads(arguments.threads)
    turns, setting = Turns(arguments.steps, output), load_setting(arguments, ["--config", arguments.config, *words])
    runs: dict[str, Callable[[], None]] = {
        "afternoon": lambda: run_written(setting, turns, OFFICIAL_SECONDS),
        "careful": lambda: run_written(setting, turns, None),
        "sft": lambda: run_sft(setting, turns),
        "gkd": lambda: run_gkd(setting, turns),
        **dict.fromkeys(OURS, lambda: run_ours(setting, turns)),
    }
    runs[arguments.worker]()


class Worker:
    """A contestant's process."""

    def __init__(self, name: str, arguments: argparse.Namespace, words: list[str]) -> None:
        command = [sys.executable, __file__, "--worker", name, "--steps", str(arguments.steps)]
        command += ["--questions", str(arguments.questions), "--threads", str(arguments.threads), *words]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.gib = 0.0

    def take_turn(self) -> None:
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        self.seconds.append(self.read()["seconds"])

    def read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed")
        found = json.loads(line)
        self.gib = found["gib"]
        return found

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(TINY))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--questions", type=int, default=8, help="of a step")
    parser.add_argument("--speech_seconds", type=float, help="length of every clip; without it, as they are")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments, words = parser.parse_known_args()
    if arguments.smoke:
        arguments.rows, arguments.steps, arguments.rounds, arguments.questions = 4, 1, 1, 2
        arguments.contestants = ["careful", "sft", "gkd", "live"]
    if arguments.worker:
        work(arguments, words)
        return
    with tempfile.TemporaryDirectory() as folder:
        words = prepare(arguments, words, Path(folder))
        workers = [Worker(name, arguments, words) for name in arguments.contestants]
        for worker in workers:
            worker.read()  # of the warm-up
        for number in range(arguments.rounds):
            for worker in workers[number % len(workers) :] + workers[: number % len(workers)]:
                worker.take_turn()
        for worker in workers:
            worker.end()
    reference = next((worker for worker in workers if worker.name == "live"), workers[-1])
    print(f"| {arguments.questions} questions a step | seconds | times {reference.name}'s (range) | memory, GiB |")
    print("|---|---|---|---|")
    for worker in workers:
        ratios = [own / other for own, other in zip(worker.seconds, reference.seconds, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {worker.name} | {statistics.median(worker.seconds):.3f} | {spread} | {worker.gib:.2f} |")


if __name__ == "__main__":
    main()
