"""Build a data set of questions about sounds, answered by the untouched student or by their source.

    any `datasets` id or file of clips and questions -> the student's own answers -> rows that train the channel a2t

    python recipes/build_sound_data.py                     # the tiny lab's sounds, of recipes/tiny_lab/make_sounds.py
    python recipes/build_sound_data.py --dataset_name me/clotho-aqa \
        --columns question=QuestionText audio=audio reference=answer \
        --model_name_or_path Qwen/Qwen2.5-Omni-7B --output_dir outputs/data/clotho_aqa

    accelerate launch recipes/s2t_t2t.py --config mine.yaml --channels t2t s2t a2t \
        --sound_dataset_name outputs/data/clotho_aqa --sound_share 0.1

A killed run goes on. Without model_name_or_path nothing is answered: train on the source's answers by
`--hard_targets gold`.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

import collections
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.audio import decode_speech, encode_speech
from data_builders.hub.ids import public_name
from data_builders.pipeline.assemble import MANIFEST
from data_builders.pipeline.build import check_folder
from data_builders.pipeline.outcome_table import show_outcomes
from data_builders.schema import SOUND_CHANNEL, SPEECH_RATE_HZ
from data_builders.sounds.arguments import SoundDataArguments
from data_builders.sounds.card import write_sound_card
from data_builders.sounds.rows import write_split
from data_builders.storage.atomic import atomic_folder
from data_builders.storage.call_cache import content_key
from trainer_ext.command_line import run_command
from trainer_ext.evaluation.answering import Generation, answer_benchmark
from trainer_ext.evaluation.arguments import read_key_values
from trainer_ext.evaluation.benchmarks.base import LoadedBenchmark, load_benchmark
from trainer_ext.evaluation.benchmarks.own_data import make_mapped_benchmark
from trainer_ext.evaluation.items import LENGTH, REFUSED, Answer, Item
from trainer_ext.evaluation.sources.student import LoadSettings, SharedStudent
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet

TINY_LAB = Path(__file__).parent / "configs" / "sounds" / "tiny.yaml"


def main() -> None:
    parser = RecipeParser((SoundDataArguments,), TINY_LAB, named_by=("dataset_name",))
    (arguments,) = parser.parse_args_and_config()
    keep_libraries_quiet()
    if arguments.dataset_name is None:
        parser.error("name the questions about sounds by dataset_name")
    if parser.uses_default_config and not Path(arguments.dataset_name).is_dir():
        parser.error(
            f"{arguments.dataset_name} is not there yet: make the lab's sounds by recipes/tiny_lab/make_sounds.py"
        )
    splits = {"train": arguments.train_split, "test": arguments.test_split}
    everything = {name: load_questions(arguments, split) for name, split in splits.items() if split}
    loaded = drop_repeats(everything)
    student = load_answering(arguments)
    target = Path(arguments.output_dir)
    key = fingerprint_sounds(arguments, loaded, student)
    manifest = check_folder(target, key, arguments.overwrite_output_dir)
    if manifest is None or manifest["build"] != key:
        answers = {name: answer_sounds(arguments, questions, student) for name, questions in loaded.items()}
        repeated = sum(len(everything[name].items) - len(questions.items) for name, questions in loaded.items())
        manifest = write_dataset(arguments, loaded, answers, key, repeated)
    if empty := loaded.keys() - manifest["rows"].keys():
        print(f"no question of the split {', '.join(sorted(empty))} is left, so the data set has none of that name")
    show_outcomes(manifest["counts"])
    print(f"{target}: {', '.join(f'{count} {split}' for split, count in manifest['rows'].items())}")


def load_questions(arguments: SoundDataArguments, split: str) -> LoadedBenchmark:
    """Load the questions of one split, clips undecoded."""
    assert arguments.dataset_name is not None
    benchmark = make_mapped_benchmark(
        arguments.dataset_name,
        arguments.dataset_config,
        split,
        read_key_values(arguments.columns, "columns"),
        "exact_answer",
        arguments.max_new_tokens,
        arguments.dataset_revision,
    )
    return load_benchmark(benchmark, None, arguments.max_items)


def drop_repeats(loaded: dict[str, LoadedBenchmark]) -> dict[str, LoadedBenchmark]:
    """Return the questions without those that are asked about the same clip in the same words, in any split.

    Of several, the one in the split `test` stays, then one with a reference, then the first.
    """
    best: dict[str, tuple[bool, bool]] = {}
    places: dict[str, tuple[str, int]] = {}
    for name, benchmark in loaded.items():
        for position, item in enumerate(benchmark.items):
            key, rank = hash_asked(benchmark, position), (name == "test", bool(item.reference))
            if key not in best or rank > best[key]:
                best[key], places[key] = rank, (name, position)
    kept = {name: [position for split, position in sorted(places.values()) if split == name] for name in loaded}
    return {
        name: benchmark  # whose clips are hashed already
        if len(kept[name]) == len(benchmark.items)
        else replace(
            benchmark,
            items=[benchmark.items[position] for position in kept[name]],
            clips=None if benchmark.clips is None else benchmark.clips.select(kept[name]),
        )
        for name, benchmark in loaded.items()
    }


def hash_asked(loaded: LoadedBenchmark, position: int) -> str:
    """Return a hash of a question and of the clip that it is about."""
    item = loaded.items[position]
    return content_key(item.system, item.question, loaded.clip_hashes[position])[:16]


def load_answering(arguments: SoundDataArguments) -> SharedStudent | None:
    """Return the student that answers, its weights not loaded yet; None for none."""
    if arguments.model_name_or_path is None:
        return None
    return SharedStudent(
        LoadSettings(arguments.model_name_or_path, arguments.model_revision, arguments.dtype, arguments.load_in_4bit)
    )


def fingerprint_sounds(
    arguments: SoundDataArguments, loaded: dict[str, LoadedBenchmark], student: SharedStudent | None
) -> str:
    """Return a hash of everything that the rows depend on."""
    questions = {
        name: [[item.to_dict(), clip] for item, clip in zip(benchmark.items, benchmark.clip_hashes, strict=True)]
        for name, benchmark in loaded.items()
    }
    model = None if student is None else student.describe(None, "main")
    return content_key("sounds 1", questions, model, arguments.max_new_tokens)[:16]


def answer_sounds(
    arguments: SoundDataArguments, loaded: LoadedBenchmark, student: SharedStudent | None
) -> list[Answer] | None:
    """Return the student's answer to every question about its clip; None without a student."""
    if student is None:
        return None
    source = student.make_source("student", batch_size=arguments.batch_size)
    folder = Path(arguments.cache_dir) / "sounds"
    answered = answer_benchmark(source, loaded, "audio", folder, Generation(arguments.max_new_tokens))
    return [entry.answer for entry in answered]


def write_dataset(
    arguments: SoundDataArguments,
    loaded: dict[str, LoadedBenchmark],
    answers: dict[str, list[Answer] | None],
    key: str,
    repeated: int,
) -> dict[str, Any]:
    """Put the data set in its place; returns its manifest. A split without a row is left out.

    Args:
        repeated: questions that were dropped because others are the same.

    Raises:
        ValueError: no row to train on is left.
    """
    assert arguments.dataset_name is not None
    teacher = None
    if arguments.model_name_or_path is not None:
        name = fingerprint_model(arguments.model_name_or_path, arguments.model_revision)
        precision = " in 4-bit" if arguments.load_in_4bit else ""
        teacher = f"{name}{precision}, hearing the sound, greedy, at most {arguments.max_new_tokens} tokens"
    counts: collections.Counter[str] = collections.Counter(read=repeated, kept=0)
    if repeated:
        counts["repeated"] = repeated
    rows: dict[str, int] = {}
    files: dict[str, str] = {}
    target = Path(arguments.output_dir)
    with atomic_folder(target) as folder:
        for split, questions in loaded.items():
            made = make_rows(public_name(arguments.dataset_name), questions, answers[split], teacher, counts)
            count, file = write_split(folder, split, made)
            if count:
                rows[split] = count
                files |= file
            else:
                (folder / next(iter(file))).unlink()
        if "train" not in rows:
            raise ValueError(f"no question about a sound is left to train on: {dict(counts)}")
        source, revision = arguments.dataset_name, arguments.dataset_revision
        write_sound_card(folder, target, source, revision, teacher, rows, counts, arguments.license)
        manifest = {"build": key, "rows": rows, "means": {}, "counts": {"questions": dict(counts)}, "files": files}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return manifest


def make_rows(
    source: str,
    loaded: LoadedBenchmark,
    answers: list[Answer] | None,
    teacher: str | None,
    counts: collections.Counter[str],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the questions that have an answer; counts outcomes."""
    for position, item in enumerate(loaded.items):
        answer = None if answers is None else answers[position]
        counts["read"] += 1
        if fault := find_fault(item, answer):
            counts[fault] += 1
            continue
        try:
            samples = decode_speech(loaded.read_clip(position), item.id)
            clip = {"bytes": encode_speech(samples), "path": None}
        except ValueError:  # where no student was asked, nobody has heard the clip yet
            counts["unreadable_clip"] += 1
            continue
        counts["kept"] += 1
        yield {
            "id": hash_asked(loaded, position),
            "source": source if item.group == loaded.benchmark.splits[0] else f"{source}/{item.group}",
            "source_id": item.id,
            "system": item.system,
            "question": item.question,
            "gold_response": item.reference,
            "reference": item.reference,
            "teacher_response": None if answer is None else answer.text,
            "teacher": teacher,
            "audio": clip,
            "audio_seconds": len(samples) / SPEECH_RATE_HZ,
            "channels": [SOUND_CHANNEL],
        }


def find_fault(item: Item, answer: Answer | None) -> str | None:
    """Return the reason for which a question is left out; None for none."""
    if not item.question.strip():
        return "empty_question"
    if answer is None:
        return None if item.reference else "no_reference"
    if answer.finish_reason in (REFUSED, LENGTH):
        return {REFUSED: "unreadable_or_too_long_clip", LENGTH: "answer_cut_off"}[answer.finish_reason]
    return None if answer.text.strip() else "empty_answer"


if __name__ == "__main__":
    run_command(main)
