"""Speed of an evaluation: batched answers against one at a time, and three models in one report against three reports.

    python tests/benchmarks/evaluation.py

On one core of a cloud CPU, the lab's student, medians of three rounds: batches of 16 are 6.9 times as fast in text (6.4
to 7.2) and 3.2 times in speech (3.1 to 3.7). One report of three models takes 34 s, three reports of the same models,
each adapter beside the base, 71 s.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel

from data_builders.arguments import DataArguments
from data_builders.causal_lm import TeacherSettings
from data_builders.pairs import load_pairs
from trainer_ext.evaluation.answering import select_asked
from trainer_ext.evaluation.benchmarks.own_data import make_pairs_benchmark
from trainer_ext.evaluation.sources.student import LoadSettings, SharedStudent

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.lab import write_every  # noqa: E402

TINY = ROOT / "recipes" / "configs" / "tiny.yaml"
STUDENT, TEACHER = "recipes/tiny_lab/student", "recipes/tiny_lab/teacher"
BATCH, ROUNDS = 16, 3


def answer(source, asked, modality, batch_size) -> float:
    """Return the seconds of answering everything in batches of a size."""
    source.batch_size = batch_size
    start = time.perf_counter()
    for batch in source.cut(asked, modality):
        source.answer([asked[i] for i in batch], modality, 24)
    return time.perf_counter() - start


def evaluate(config: Path, folder: Path, *words: str) -> float:
    """Return the seconds of one command."""
    start = time.perf_counter()
    command = [sys.executable, "recipes/eval_speech.py", "--run_config", str(config)]
    command += ["--evaluator", "exact_answer", "--dtype", "float32", "--output_dir", str(folder), *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    smoke = parser.parse_args().smoke
    torch.manual_seed(0)
    questions, few = "recipes/tiny_lab/questions.jsonl", ["--max_items", "3"] if smoke else []
    voices = {"train_voices": ["en-us"], "test_voices": ["en-us+f4/165/50", "en-gb-x-rp+m3/165/45"]}
    with tempfile.TemporaryDirectory() as temporary:
        folder, run_config = Path(temporary), TINY
        if smoke:
            questions, run_config = str(write_every(20, folder / "questions.jsonl")), folder / "few.yaml"
            run_config.write_text(TINY.read_text().replace("recipes/tiny_lab/questions.jsonl", questions))
        data = DataArguments(questions=questions, cache_dir=str(folder / "data"), answer_max_new_tokens=24, **voices)
        rows = load_pairs(data, TeacherSettings(TEACHER))["test"]
        loaded = make_pairs_benchmark(rows.select(range(8 if smoke else len(rows))), "lab", "exact_answer", 24)
        shared = SharedStudent(LoadSettings(STUDENT, dtype="float32"))
        source = shared.make_source("base")
        for modality in ("text", "speech"):
            asked = select_asked(loaded, modality)
            answer(source, asked[:BATCH], modality, BATCH)  # loads, and pays for first uses
            ratios = [
                answer(source, asked, modality, 1) / answer(source, asked, modality, BATCH)
                for _ in range(1 if smoke else ROUNDS)
            ]
            spread = f"{statistics.median(ratios):.1f} times as fast ({min(ratios):.1f} to {max(ratios):.1f})"
            print(f"{modality}: {len(asked)} questions in batches of {BATCH}, {spread} as one at a time")
        adapters = []
        for name in ("a", "b"):
            config = LoraConfig(target_modules=shared.family.lora_target_modules, r=4, init_lora_weights=False)
            model = shared.family.load_model(STUDENT, dtype="float32")
            PeftModel(model, config).save_pretrained(str(folder / name))
            adapters.append(str(folder / name))
        base = ["--model_name_or_path", STUDENT, *few]
        evaluate(run_config, folder / "warm", *base, "--max_items", "1")  # builds the data
        together = evaluate(run_config, folder / "three", *base, "--adapters", *adapters)
        alone = evaluate(run_config, folder / "one", *base)
        alone += sum(evaluate(run_config, folder / f"one-{Path(a).name}", *base, "--adapters", a) for a in adapters)
        print(f"base and two adapters in one report: {together:.0f} s; base, and each adapter beside it: {alone:.0f} s "
              f"({alone / together:.1f} times)")  # fmt: skip


if __name__ == "__main__":
    main()
