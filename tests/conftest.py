"""What tests share: the tiny lab's models and a small data set of real espeak-ng speech, made once a session."""

import copy
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["TRITON_INTERPRET"] = (
    "1"  # GPU kernels run on the CPU; read when triton is first imported
)

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from data_builders.answers.fingerprint import fingerprint_model
from data_builders.arguments import DataArguments
from data_builders.pairs import load_pairs
from data_builders.soft_targets.cache import cache_soft_targets, make_settings, read_rows
from tests.support.tiny_omni import save_tiny_omni
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.self_teacher import SelfTeacher
from trainer_ext.teachers.stored import SoftTargets, StoredTeacher
from trainer_ext.teachers.top_k_scorer import TopKScorer
from trainer_ext.trainer import CrossModalDistillTrainer

ROOT = Path(__file__).parents[1]
LAB = ROOT / "recipes" / "tiny_lab"
STUDENT, TEACHER = str(LAB / "student"), str(LAB / "teacher")

datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def lab_student() -> str:
    return STUDENT


@pytest.fixture(scope="session")
def questions_file(tmp_path_factory) -> Path:
    """Every fourteenth question of the lab: all families, train and test."""
    lines = (LAB / "questions.jsonl").read_text().splitlines()[::14]
    file = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines))
    assert {json.loads(line)["split"] for line in lines} == {"train", "test"}
    return file


@pytest.fixture(scope="session")
def data_arguments(questions_file, tmp_path_factory) -> DataArguments:
    return DataArguments(
        questions=str(questions_file),
        cache_dir=str(tmp_path_factory.mktemp("data")),
        train_voices=["en-us/150/45", "en-gb-x-rp+f2/180/60"],
        test_voices=["en-us+m3", "en-029"],
        answer_max_new_tokens=24,
    )


@pytest.fixture(scope="session")
def pairs(data_arguments) -> datasets.DatasetDict:
    return load_pairs(data_arguments, TEACHER)


@pytest.fixture(scope="session")
def family():
    return load_student_family(STUDENT)


@pytest.fixture(scope="session")
def pristine_student(family):
    return family.load_model(STUDENT, dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_omni(tmp_path_factory) -> Path:
    """A full Qwen2.5-Omni in the published layout."""
    return save_tiny_omni(tmp_path_factory.mktemp("omni") / "tiny-omni")


@pytest.fixture
def student(pristine_student):
    """A student of one's own."""
    return copy.deepcopy(pristine_student)


@pytest.fixture(scope="session")
def teacher() -> LiveTeacher:
    return LiveTeacher.from_pretrained(TEACHER, dtype="float32")


@pytest.fixture(scope="session")
def soft_targets(pairs, teacher, family, tmp_path_factory) -> Path:
    """What the lab's teacher thinks of the small data set, 64 ids a token."""
    folder = tmp_path_factory.mktemp("soft") / "table"
    make_soft_targets(folder, pairs, teacher, family.vocab_size)
    return folder


def make_soft_targets(folder, pairs, teacher, vocab_size, k=64) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    identity = fingerprint_model(TEACHER)
    settings = make_settings(identity, "model in float32", tokenizer, vocab_size, k, [1.0, 2.0])
    rows = datasets.concatenate_datasets(list(pairs.values()))
    return cache_soft_targets(
        read_rows(rows, "teacher_response", tokenizer),
        folder,
        settings,
        lambda: TopKScorer(teacher, vocab_size, k, settings["temperatures"]),
        batch_size=16,
    )


@pytest.fixture
def make_teacher(teacher, family, soft_targets):
    """A teacher of any kind for the lab's student."""

    def make(kind: str, temperature: float = 2.0, k: int = 64):
        if kind == "model":
            return teacher
        if kind == "self":
            return SelfTeacher(family)
        if kind == "stored":
            table = SoftTargets.from_pretrained(
                str(soft_targets), family=family, temperature=temperature, k=k
            )
            return StoredTeacher(table)
        return None

    return make


@pytest.fixture
def make_config(tmp_path):
    """A quiet configuration for a few steps on the CPU; keyword arguments override it."""

    def make(**arguments) -> CrossModalDistillConfig:
        defaults = dict(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        return CrossModalDistillConfig(**{**defaults, **arguments})

    return make


@pytest.fixture
def make_trainer(student, family, make_teacher, pairs, make_config):
    """A trainer of the lab's student on the small data set; arguments go to the configuration."""

    def make(
        train_dataset=None,
        eval_dataset=None,
        peft_config=None,
        model=None,
        teacher=None,
        **arguments,
    ):
        config = make_config(**arguments)
        return CrossModalDistillTrainer(
            model=student if model is None else model,
            args=config,
            family=family,
            teacher=teacher or make_teacher(config.teacher_kind, config.temperature),
            train_dataset=pairs["train"] if train_dataset is None else train_dataset,
            eval_dataset=eval_dataset,
            peft_config=peft_config,
        )

    return make
