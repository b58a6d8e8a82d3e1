"""Attacks on files that this project has written: cut, overwritten, of other types, a folder in their place."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from data_builders.pairs import load_pairs
from data_builders.storage.call_cache import CallCache
from data_builders.storage.dataset_folder import load_dataset_folder
from tests.support.attacks import SCALE
from tests.support.lab import STUDENT
from trainer_ext.checkpoints.complete import find_last_complete_checkpoint
from trainer_ext.checkpoints.identity import read_identity
from trainer_ext.command_line import MENDABLE
from trainer_ext.evaluation.answer_file import append_answers, read_answers
from trainer_ext.evaluation.items import Answer, AnsweredItem, Item, ItemScore
from trainer_ext.evaluation.scoring import Cell, Scored, read_scores, write_scores
from trainer_ext.loading.adapter import load_adapter
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.stored import SoftTargets

RANDOM = random.Random(0)
JSON_VALUES = (None, [], {}, 7, -1, "x", [7], {"a": None}, True, float("nan"))


def damage_bytes(content: bytes) -> list[bytes]:
    """Return versions of a file: empty, cut, with random bytes, something else."""
    length = len(content)
    cut = [content[: RANDOM.randrange(length)] for _ in range(3 * SCALE)]
    flipped = []
    for _ in range(3 * SCALE):
        changed = bytearray(content)
        for _ in range(8):
            changed[RANDOM.randrange(min(length, 4_000))] ^= RANDOM.randrange(1, 256)
        flipped.append(bytes(changed))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return [b"", bytes(length), b"\xff\xfe" * 40, b"null", b"[]", b"7", b"[" * 100_000, pointer, *cut, *flipped]


def damage_json(content: bytes) -> list[bytes]:
    """Return versions of a JSON object with one value of another type, or one key less."""
    values = json.loads(content)
    versions = []
    for key in values:
        versions += [{**values, key: RANDOM.choice(JSON_VALUES)} for _ in range(SCALE)]
        versions.append({other: value for other, value in values.items() if other != key})
    return [json.dumps(version).encode() for version in versions]


def attack(file: Path, load, more=()) -> int:
    """Load every damaged version of a file; returns the number of those that were refused, each in one line."""
    content, refused = file.read_bytes(), 0
    for version in [*damage_bytes(content), *more]:
        file.write_bytes(version)
        try:
            load()
        except MENDABLE:
            refused += 1
    file.write_bytes(content)
    load()
    return refused


@pytest.fixture
def copied(pairs, data_arguments, teacher_settings, tmp_path) -> Path:
    """The caches and the finished data set of the small lab, without the data sets that other tests built there."""
    target = tmp_path / "data"
    others = shutil.ignore_patterns("questions-*", "selections", "shards")
    shutil.copytree(data_arguments.cache_dir, target, ignore=others)
    load_pairs(replace(data_arguments, cache_dir=str(target)), teacher_settings)
    return target


@pytest.mark.parametrize("pattern", ["shards/*/train-*0.json", "selections/*/selection.json", "*/manifest.json"])
def test_records_of_a_build(copied, data_arguments, teacher_settings, pattern):
    """Prevents: a TypeError in the night because a disk lost the end of a record."""
    arguments = replace(data_arguments, cache_dir=str(copied))
    file = next(copied.glob(pattern))

    def load():
        if "manifest" not in pattern:  # assembled again
            for folder in copied.glob("questions-*"):
                shutil.rmtree(folder)
        load_pairs(arguments, teacher_settings)

    load_pairs(arguments, teacher_settings)
    assert attack(file, load, damage_json(file.read_bytes())) >= 10


def test_rows_of_a_data_set(copied):
    """Prevents: a traceback of Arrow for a file that was not copied completely."""
    file = next(copied.glob("questions-*/data/train-*.parquet"))
    assert attack(file, lambda: load_dataset_folder(str(file.parents[1]))) >= 10


def test_caches(tmp_path):
    """Prevents: `sqlite3.DatabaseError: file is not a database` without the name of the file."""
    file = tmp_path / "calls" / "a.sqlite"
    sibling = CallCache(file.with_name("b.sqlite"))
    sibling.put_all({str(i): bytes(100) for i in range(50)})
    sibling.close()
    cache = CallCache(file)
    cache.put_all({str(i): bytes(100) for i in range(100, 150)})
    cache.close()

    def load():
        cache = CallCache(file)
        try:
            cache.adopt([str(i) for i in range(200)])
            cache.get("120")
            cache.put("new", b"1")
        finally:
            cache.close()

    assert attack(file, load) >= 8
    for version in damage_bytes(sibling.file.read_bytes()):
        sibling.file.write_bytes(version)
        load()


def test_soft_targets(soft_targets, family, tmp_path):
    """Prevents: the soft targets of another row, or NaN, learned without a word."""
    shutil.copytree(soft_targets, tmp_path / "table")
    file = next((tmp_path / "table").glob("data-*.arrow"))
    load = lambda: SoftTargets.from_pretrained(str(tmp_path / "table"), student=family, temperature=2.0, k=64)  # noqa: E731
    attack(file, load)
    table = load_from_disk(str(soft_targets))
    for name, change in (
        ("log_probs", lambda v: [float("nan"), *v[1:]]),
        ("log_probs", lambda v: v[64:]),
        ("log_tails", lambda v: [*v, *v]),
        ("log_tails", lambda v: [5.0, *v[1:]]),
        ("ids_high", lambda v: [255, *v[1:]]),
        ("ids_low", lambda v: [None, *v[1:]]),
    ):
        column = [change(values) if i == 3 else values for i, values in enumerate(table[name])]
        changed = table.remove_columns(name).add_column(name, column, feature=table.features[name])
        with pytest.raises(ValueError, match="table is damaged; make it again"):
            SoftTargets(changed, "table", family, 2.0, 64)


def test_weights_and_adapters(student, family, tmp_path):
    """Prevents: an error of safetensors without a file's name, and a broken adapter that answers nothing."""
    adapted = get_peft_model(student, LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")

    def load():
        load_adapter(family.load_model(STUDENT), str(tmp_path / "adapter"))

    config = tmp_path / "adapter" / "adapter_config.json"
    versions = damage_json(config.read_bytes())
    assert attack(config, load, RANDOM.sample(versions, min(len(versions), 12 * SCALE))) >= 10
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    assert attack(weights, load) >= 8
    tensors = load_file(weights)
    name = next(iter(tensors))
    for broken, message in ((torch.full_like(tensors[name], torch.nan), "NaN or infinite"), (tensors[name][:1], "fit")):
        save_file({**tensors, name: broken.contiguous()}, weights)
        with pytest.raises(ValueError, match=message):
            load()


def test_a_model(family, tmp_path):
    """Prevents: a traceback for a download that was cut."""
    folder = str(tmp_path / "student")
    shutil.copytree(STUDENT, folder)

    def load():
        load_student_family(folder).load_model(folder)

    for name in ("model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        file = tmp_path / "student" / name
        more = damage_json(file.read_bytes()) if name == "preprocessor_config.json" else []
        assert attack(
            file, lambda: load_student_family(str(tmp_path / "student")).load_model(str(tmp_path / "student")), more
        )


def test_checkpoints(make_trainer, tmp_path):
    """Prevents: a resume that crashes instead of taking the older checkpoint."""
    make_trainer(max_steps=2, save_strategy="steps", save_steps=1).train()
    folder = tmp_path / "run"
    for name in ("checksums.json", "run.json", "adapter_model.safetensors", "trainer_state.json"):
        file = folder / "checkpoint-2" / name
        if not file.is_file():
            continue
        content = file.read_bytes()
        for version in damage_bytes(content):
            file.write_bytes(version)
            found, skipped = find_last_complete_checkpoint(folder)
            assert found == folder / "checkpoint-1" or version == content
            assert len(skipped) == 1
            read_identity(folder / "checkpoint-2")
        file.write_bytes(content)


def test_answers_and_scores(tmp_path):
    """Prevents: an evaluation that cannot be reported because of one line."""
    items = [Item(f"id\u2028{i}", f"q{i}", "own", "g\x85", "Q?") for i in range(3)]
    answered = [AnsweredItem(item, "text", Answer("four\u2029", "stop")) for item in items]
    file = tmp_path / "answers.jsonl"
    append_answers(file, answered, {})
    assert list(read_answers(file)) == answered
    line = file.read_bytes().split(b"\n")[0]
    more = [version + b"\n" for version in damage_json(line)]
    values = json.loads(line)
    more += [json.dumps({**values, "answer": {**values["answer"], "text": v}}).encode() + b"\n" for v in JSON_VALUES]
    assert attack(file, lambda: list(read_answers(file)), more) >= 10

    cell = Cell("own", "m", "text")
    results = {cell: [Scored(entry, ItemScore({"score": (1.0, 1.0)})) for entry in answered]}
    scores = tmp_path / "scores.jsonl"
    write_scores(scores, results)
    assert read_scores(scores, {cell: answered}) == results
    more = [version + b"\n" for version in damage_json(scores.read_bytes().split(b"\n")[0])]
    assert attack(scores, lambda: read_scores(scores, {cell: answered}), more) >= 10
