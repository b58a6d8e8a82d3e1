"""Time of a training step by part, share of padding, and waiting for data: the tiny lab's student.

    python tests/benchmarks/step.py                    # 500 rows of mixed length, batches of 8, 2 workers
    python tests/benchmarks/step.py --config recipes/configs/tiny_stored.yaml
    python tests/benchmarks/step.py --sampling random                          # and the spread of the steps' times
    python tests/benchmarks/step.py --sampling 1000                            # tokens a batch

Half of the rows get a pause of up to six seconds, so that clips are of unlike length as people's are. The last lines
compare, in turns in one run, rows packed into one (what trains) with rows padded to the longest.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset

import trainer_ext.students.distill_forward
from data_builders.arguments import DataArguments, SoftTargetArguments
from data_builders.audio import decode_speech, encode_speech
from data_builders.pairs import load_pairs
from data_builders.schema import SPEECH_RATE_HZ
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.loading.student import load_peft_config, load_student
from trainer_ext.loading.teacher import load_teacher
from trainer_ext.loss.alignment import gather_response_labels, gather_response_states
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.distill_forward import DistillOutput
from trainer_ext.students.registry import load_student_family
from trainer_ext.trainer import CrossModalDistillTrainer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.lab import write_every  # noqa: E402

TINY = ROOT / "recipes" / "configs" / "tiny.yaml"
WARM_UP_STEPS = 5


class Clock:
    """Seconds by name of nested calls; the time of an inner call is not counted in the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner = [0.0]

    def measure(self, name: str, function):
        @functools.wraps(function)
        def timed(*args, **kwargs):
            self.inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.perf_counter() - start
                self.seconds[name] += whole - self.inner.pop()
                self.inner[-1] += whole

        return timed


def mix_lengths(rows: Dataset, seed: int = 0) -> Dataset:
    """Add a pause of up to six seconds after every second question."""
    generator = np.random.default_rng(seed)

    def pause(row, number):
        if number % 2:
            return {}
        samples = decode_speech(row["speech"], row["id"])
        samples = np.pad(samples, (0, int(generator.uniform(0, 6) * SPEECH_RATE_HZ)))
        return {
            "speech": {"bytes": encode_speech(samples), "path": None},
            "speech_seconds": len(samples) / SPEECH_RATE_HZ,
        }

    return rows.map(pause, with_indices=True)


def load_trainer(arguments: argparse.Namespace) -> CrossModalDistillTrainer:
    parser = RecipeParser((ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig))
    words = ["--config", arguments.config, "--max_steps", str(arguments.steps + WARM_UP_STEPS)]
    words += ["--dataloader_num_workers", str(arguments.workers), "--save_strategy", "no"]
    by_tokens = arguments.sampling.isdecimal()
    words += ["--max_batch_tokens" if by_tokens else "--train_sampling_strategy", arguments.sampling]
    words += ["--disable_tqdm", "true", "--logging_steps", "1000", "--output_dir", "outputs/benchmarks/step"]
    if arguments.smoke:
        few = write_every(20, Path(tempfile.mkdtemp()) / "questions.jsonl")
        words += ["--questions", str(few), "--recordings_per_question", "1"]
    model, data, soft, training = parser.parse_args_and_config(words)
    pairs = load_pairs(data, model.teacher)
    family = load_student_family(model.model_name_or_path)
    return CrossModalDistillTrainer(
        model=load_student(model, family),
        args=training,
        family=family,
        teacher=load_teacher(training, family, model.teacher, soft.soft_targets_path, soft.soft_targets_k),
        train_dataset=mix_lengths(pairs["train"].select(range(arguments.rows))),
        peft_config=load_peft_config(model, family),
    )


def profile(trainer: CrossModalDistillTrainer) -> dict[str, float]:
    """Return shares of the time between the warm-up and the last step."""
    clock = Clock()
    student = trainer.model.get_base_model() if hasattr(trainer.model, "peft_config") else trainer.model
    tower = student.model.audio_tower
    tower.forward = clock.measure("audio tower", tower.forward)
    trainer_ext.students.distill_forward.grouped_loss = clock.measure(
        "loss", trainer_ext.students.distill_forward.grouped_loss
    )
    if trainer.teacher is not None:
        trainer.teacher.targets = clock.measure("teacher", trainer.teacher.targets)
    student.forward = clock.measure("student, forward", student.forward)
    trainer.accelerator.backward = clock.measure("student, backward", trainer.accelerator.backward)
    trainer.get_batch_samples = clock.measure("waiting for data", trainer.get_batch_samples)

    from transformers import TrainerCallback

    class Start(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            now = time.perf_counter()
            if state.global_step == WARM_UP_STEPS:
                clock.seconds.clear()
                self.started, self.steps = now, []
            elif state.global_step > WARM_UP_STEPS:
                self.steps.append(now - self.ended)
            self.ended = now

        def on_train_end(self, args, state, control, **_):
            self.whole = time.perf_counter() - self.started

    start = Start()
    trainer.add_callback(start)
    trainer.train()
    clock.seconds["optimizer and the rest"] = start.whole - sum(clock.seconds.values())
    steps = trainer.state.global_step - WARM_UP_STEPS
    print(f"{start.whole / steps:.3f} s a step, {torch.get_num_threads()} threads")
    middle, late = np.percentile(start.steps, [50, 95])
    print(f"seconds of a step: median {middle:.3f}, 95th percentile {late:.3f}, ratio {late / middle:.2f}\n")
    return {name: seconds / start.whole for name, seconds in clock.seconds.items()}


def list_batches(trainer: CrossModalDistillTrainer) -> list[list[int]]:
    """Return the rows of every batch of an epoch, as the run's sampler groups them."""
    order = list(trainer._get_train_sampler(trainer.train_dataset))
    return order if isinstance(order[0], list) else split(order, trainer.args.per_device_train_batch_size)


def split(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def measure_padding(trainer: CrossModalDistillTrainer) -> list[tuple[str, float, float]]:
    """Return the share of padding of student and teacher tokens in an epoch, by sampler."""
    size = trainer.args.per_device_train_batch_size
    rows = trainer.train_dataset
    orders = {
        "random order, padded": split(torch.randperm(len(rows)).tolist(), size),
        "as sampled, padded": list_batches(trainer),
    }
    lines = []
    for name, batches in orders.items():
        counted = np.zeros(4, dtype=int)
        for chosen in batches:
            batch = trainer.data_collator([rows[i] for i in chosen])
            mask = batch["attention_mask"]
            teacher = batch.get("teacher_attention_mask", torch.zeros(1, 0))
            counted += [mask.numel(), int(mask.sum()), teacher.numel(), int(teacher.sum())]
        everything, tokens, teacher_everything, teacher_tokens = counted
        lines.append(
            (
                name,
                1 - tokens / everything,
                1 - (tokens + teacher_tokens) / (everything + teacher_everything),
            )
        )
    packed = tokens + teacher_everything
    lines.append(("as sampled, student packed (this)", 0.0, 1 - (tokens + teacher_tokens) / packed))
    return lines


def compare_with_padded(trainer: CrossModalDistillTrainer, rounds: int = 5) -> float:
    """Return the ratio of times, padded to packed forward and backward, median of alternating rounds."""
    student = trainer.model.get_base_model() if hasattr(trainer.model, "peft_config") else trainer.model
    packed_forward = student.forward

    def padded_forward(*args, distill=None, **kwargs):
        hidden = student.base_model(*args, **kwargs, use_cache=False).last_hidden_state
        distill.parts = trainer_ext.students.distill_forward.grouped_loss(
            gather_response_states(hidden, distill.labels),
            student.get_output_embeddings().weight,
            gather_response_labels(distill.labels),
            distill.groups,
            distill.objective,
        )
        return DistillOutput(total=distill.parts.total)

    batches = [trainer.data_collator([trainer.train_dataset[i] for i in rows]) for rows in list_batches(trainer)[:10]]
    trainer.model.train()
    ratios = []
    for _ in range(rounds):
        seconds = []
        for forward in (padded_forward, packed_forward):
            student.forward = forward
            start = time.perf_counter()
            for batch in batches:
                trainer.compute_loss(trainer.model, batch).backward()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    trainer.model.zero_grad()
    student.forward = packed_forward
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(TINY))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sampling", default="group_by_length", help="a train_sampling_strategy, or max_batch_tokens")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rows, arguments.steps, arguments.workers = 16, 2, 0
    keep_libraries_quiet()
    datasets.disable_progress_bars()
    trainer = load_trainer(arguments)
    print("| padding among all tokens | student | student and teacher |\n|---|---|---|")
    for name, student, both in measure_padding(trainer):
        print(f"| {name} | {student:.1%} | {both:.1%} |")
    print(f"\npadded rows take {compare_with_padded(trainer):.2f} times as long as packed ones")
    shares = profile(trainer)
    print("| part of a step | share |\n|---|---|")
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"| {name} | {share:.1%} |")


if __name__ == "__main__":
    main()
