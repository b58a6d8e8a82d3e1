"""Fixtures: the tiny lab's models, and a small data set of real espeak-ng speech, built once per session."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # GPU kernels run on the CPU; read when triton is first imported

import datasets
import pytest

from data_builders.arguments import DataArguments
from data_builders.causal_lm import TeacherSettings
from data_builders.pairs import load_pairs
from tests.support.hub.client import talk_to
from tests.support.hub.server import HubServer
from tests.support.lab import STUDENT, TEACHER, write_every
from tests.support.quiet_training import QUIET
from tests.support.servers import serve_speech, serve_teacher
from tests.support.soft_targets import make_soft_targets
from tests.support.tiny_omni import save_tiny_omni
from tests.support.tiny_qwen2_audio import save_tiny_qwen2_audio
from tests.support.tiny_qwen3_asr import save_tiny_qwen3_asr
from tests.support.tiny_voxtral import save_tiny_voxtral
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.students.registry import load_student_family
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.self_teacher import SelfTeacher
from trainer_ext.teachers.stored import SoftTargets, StoredTeacher
from trainer_ext.trainer import CrossModalDistillTrainer

datasets.disable_progress_bars()


@pytest.fixture
def hub(tmp_path_factory, monkeypatch) -> Iterator[HubServer]:
    """A Hub that this process talks to, without waiting between attempts."""
    with HubServer(tmp_path_factory.mktemp("hub")) as server, talk_to(server, monkeypatch):
        yield server


@pytest.fixture(scope="session")
def lab_student() -> str:
    return STUDENT


@pytest.fixture(scope="session")
def questions_file(tmp_path_factory) -> Path:
    """Every fourteenth question of the lab."""
    return write_every(14, tmp_path_factory.mktemp("questions") / "questions.jsonl")


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
def teacher_settings() -> TeacherSettings:
    return TeacherSettings(TEACHER)


@pytest.fixture(scope="session")
def pairs(data_arguments, teacher_settings) -> datasets.DatasetDict:
    return load_pairs(data_arguments, teacher_settings)


@pytest.fixture(scope="session")
def family():
    return load_student_family(STUDENT)


@pytest.fixture(scope="session")
def pristine_student(family):
    return family.load_model(STUDENT, dtype=torch.float32)


@pytest.fixture(scope="session")
def teacher_server():
    """The lab's teacher behind `transformers serve`."""
    with serve_teacher(TEACHER) as server:
        yield server


@pytest.fixture(scope="session")
def speech_server():
    """The speech service with espeak-ng behind it."""
    with serve_speech() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_omni(tmp_path_factory) -> Path:
    """A full Qwen2.5-Omni in the published layout."""
    return save_tiny_omni(tmp_path_factory.mktemp("omni") / "tiny-omni")


@pytest.fixture(scope="session")
def tiny_qwen2_audio(tmp_path_factory) -> Path:
    """A Qwen2-Audio in the published layout."""
    return save_tiny_qwen2_audio(tmp_path_factory.mktemp("qwen2_audio") / "tiny-qwen2-audio")


@pytest.fixture(scope="session")
def tiny_qwen3_asr(tmp_path_factory) -> Path:
    """A Qwen3-ASR in the published layout."""
    return save_tiny_qwen3_asr(tmp_path_factory.mktemp("qwen3_asr") / "tiny-qwen3-asr")


@pytest.fixture(scope="session")
def tiny_voxtral(tmp_path_factory) -> Path:
    """A Voxtral in the published layout."""
    return save_tiny_voxtral(tmp_path_factory.mktemp("voxtral") / "tiny-voxtral")


@pytest.fixture
def student(pristine_student):
    """A copy of the student for one test."""
    return copy.deepcopy(pristine_student)


@pytest.fixture(scope="session")
def teacher() -> LiveTeacher:
    return LiveTeacher.from_pretrained(TEACHER, dtype="float32")


@pytest.fixture(scope="session")
def soft_targets(pairs, teacher, family, tmp_path_factory) -> Path:
    """Soft targets of the small data set, 64 ids per token."""
    folder = tmp_path_factory.mktemp("soft") / "table"
    make_soft_targets(folder, pairs, teacher, family.vocab_size)
    return folder


@pytest.fixture
def make_teacher(teacher, family, soft_targets):
    """Make a teacher of any kind for the lab's student."""

    def make(kind: str, temperature: float = 2.0, k: int = 64):
        if kind == "model":
            return teacher
        if kind == "self":
            return SelfTeacher(family)
        if kind == "stored":
            source = str(soft_targets)
            return StoredTeacher(SoftTargets.from_pretrained(source, student=family, temperature=temperature, k=k))
        return None

    return make


@pytest.fixture
def make_config(tmp_path):
    """Make a quiet configuration of a few steps on the CPU; keyword arguments override it."""

    def make(**arguments) -> CrossModalDistillConfig:
        defaults = dict(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            **QUIET,
        )
        return CrossModalDistillConfig(**{**defaults, **arguments})

    return make


@pytest.fixture
def make_trainer(student, family, make_teacher, pairs, make_config):
    """Make a trainer of the lab's student on the small data set; other arguments go to the configuration."""

    def make(
        train_dataset=None, eval_dataset=None, peft_config=None, model=None, teacher=None, family=family, **arguments
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
