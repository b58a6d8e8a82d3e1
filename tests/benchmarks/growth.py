"""The growth of time and memory with questions a step, seconds of a clip, ids of the vocabulary, rows of the data set.

    python tests/benchmarks/growth.py

Each line gives the exponent that fits its larger half, by least squares of the logarithms: 1 is linear. The step is the
tiny lab's, without a live teacher; the loss has a teacher of the student's size.
"""

import argparse
import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from data_builders.audio import encode_speech  # noqa: E402
from data_builders.schema import SPEECH_RATE_HZ  # noqa: E402
from tests.support.lab import STUDENT  # noqa: E402
from trainer_ext.collator import PairCollator  # noqa: E402
from trainer_ext.loss.distillation import distillation_loss  # noqa: E402
from trainer_ext.loss.objective import PAPER_DEFAULTS  # noqa: E402
from trainer_ext.loss.teacher_targets import LiveTargets, TokenGroup  # noqa: E402
from trainer_ext.pair_batch import PairBatch  # noqa: E402
from trainer_ext.row_validation import check_rows  # noqa: E402
from trainer_ext.students.distill_forward import DistillRequest, install_distill_forward  # noqa: E402
from trainer_ext.students.registry import load_student_family  # noqa: E402
from trainer_ext.token_budget_sampler import fill_batches  # noqa: E402

QUESTIONS = (1, 2, 4, 8, 16, 32)
SECONDS = (1, 2, 4, 8, 15, 30, 60)
VOCABULARY = (16_000, 32_000, 64_000, 128_000, 152_064)
ROWS = (1_000, 10_000, 30_000, 100_000)
LONGEST_CLIP = 300  # seconds, of the published model; the lab refuses clips over 30 s
REPEATS = 5
LOSS_TOKENS, LOSS_WIDTH = 512, 512


def make_row(seconds: float, number: int = 0) -> dict:
    """Return a row whose clip is noise of a length."""
    samples = np.random.default_rng(number).normal(size=int(seconds * SPEECH_RATE_HZ)).astype(np.float32) / 10
    return {
        "id": f"row-{number}", "system": "", "question": "What is two plus three?", "channels": ["t2t", "s2t"],
        "teacher_response": "Five.", "speech": {"bytes": encode_speech(samples), "path": None},
        "speech_seconds": seconds,
    }  # fmt: skip


def time_step(questions: int, seconds: float) -> float:
    """Return the seconds of a step, features included."""
    family = load_student_family(STUDENT)
    family.feature_extractor.chunk_length = LONGEST_CLIP
    model = family.load_model(STUDENT, dtype=torch.float32)
    install_distill_forward(model, family.packed_inputs)
    collator = PairCollator(family, None)
    rows = [make_row(seconds, number) for number in range(questions)]

    def step() -> None:
        batch = PairBatch.split(collator(rows))
        request = DistillRequest(batch.labels, [TokenGroup(None, None)], PAPER_DEFAULTS)
        model(**batch.model_inputs, distill=request).total.backward()

    return time_median(step)


def time_loss(vocabulary: int) -> float:
    """Return the seconds of a loss with its gradient."""
    states = torch.randn(LOSS_TOKENS, LOSS_WIDTH, requires_grad=True)
    head = torch.randn(vocabulary, LOSS_WIDTH) / LOSS_WIDTH**0.5
    labels = torch.randint(vocabulary, (LOSS_TOKENS,))
    teacher = LiveTargets(torch.arange(LOSS_TOKENS), torch.randn(LOSS_TOKENS, LOSS_WIDTH), head)
    return time_median(lambda: distillation_loss(states, head, labels, teacher).total.backward())


def time_median(work: Callable[[], None]) -> float:
    """Return the median seconds of a few repetitions after one for warming up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_rows(count: int) -> None:
    """Print seconds of the validation and of `fill_batches`, and the MiB that the validation adds."""
    few = [make_row(1.0, number) for number in range(min(count, 100))]
    rows = concatenate_datasets([Dataset.from_list(few)] * (count // len(few)))
    rows = rows.shuffle(seed=0)  # as a split leaves them
    family = load_student_family(STUDENT)
    gc.collect()
    before, start = peak_mib(), time.perf_counter()
    checked = check_rows(rows, family, None, ["t2t", "s2t"], "teacher")
    validated = time.perf_counter()
    added = peak_mib() - before
    fill_batches(checked.lengths, 2048, 16, 0)
    print(validated - start, time.perf_counter() - validated, added)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def fit_exponent(sizes: tuple[float, ...], values: list[float]) -> float:
    """Return the slope of the logarithms over the larger half of the sizes."""
    half = (len(sizes) - 1) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9)), 1)[0])


def show(name: str, sizes: tuple[float, ...], values: list[float], unit: str) -> None:
    shown = ", ".join(f"{size:g}: {value:.3g}" for size, value in zip(sizes, values, strict=True))
    print(f"| {name} | {fit_exponent(sizes, values):.2f} | {shown} {unit} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)  # measure this many, in a process of its own
    arguments = parser.parse_args()
    if arguments.rows:
        measure_rows(arguments.rows)
        return
    questions, seconds, vocabulary, rows = (
        sizes[:2] if arguments.smoke else sizes for sizes in (QUESTIONS, SECONDS, VOCABULARY, ROWS)
    )
    if arguments.smoke:
        rows = (100, 200)
    print("| with | exponent | measured |\n|---|---|---|")
    show("questions a step, clips of 4 s: time", questions, [time_step(n, 4.0) for n in questions], "s")
    show("seconds of a clip, 4 questions: time", seconds, [time_step(4, s) for s in seconds], "s")
    show("ids of the vocabulary, the loss: time", vocabulary, [time_loss(v) for v in vocabulary], "s")
    measured = []
    for count in rows:
        command = [sys.executable, __file__, "--rows", str(count)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        measured.append([float(number) for number in printed.split()])
    for part, (name, unit) in enumerate(
        [("validation: time", "s"), ("sampler: time", "s"), ("validation: memory", "MiB")]
    ):
        show(f"rows, {name}", rows, [values[part] for values in measured], unit)


if __name__ == "__main__":
    main()
