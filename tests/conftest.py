"""What tests share: the tiny lab's models and a small data set of real espeak-ng speech, made once a session."""

import copy
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM

from data_builders.build import DataArguments, load_pairs
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.students.families import load_student_family
from trainer_ext.teachers import LiveTeacher, TeacherPrompts
from trainer_ext.trainer import CrossModalDistillTrainer

ROOT = Path(__file__).parent.parent
LAB = ROOT / "recipes" / "tiny_lab"
STUDENT, TEACHER = str(LAB / "student"), str(LAB / "teacher")

datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def lab_student() -> str:
    return STUDENT


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory) -> Path:
    """Every fourteenth question of the lab: all families, train and test."""
    lines = (LAB / "questions.jsonl").read_text().splitlines()[::14]
    file = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines))
    assert {json.loads(line)["split"] for line in lines} == {"train", "test"}
    return file


@pytest.fixture(scope="session")
def data_arguments(prompts_file, tmp_path_factory) -> DataArguments:
    return DataArguments(
        prompts=str(prompts_file),
        data_dir=str(tmp_path_factory.mktemp("data")),
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


@pytest.fixture
def student(pristine_student):
    """A student of one's own."""
    return copy.deepcopy(pristine_student)


@pytest.fixture(scope="session")
def teacher() -> LiveTeacher:
    model = AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.float32)
    return LiveTeacher(model, TeacherPrompts.from_pretrained(TEACHER))


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
def make_trainer(student, family, teacher, pairs, make_config):
    """A trainer of the lab's student on the small data set; arguments go to the configuration."""

    def make(train_dataset=None, eval_dataset=None, peft_config=None, model=None, **arguments):
        config = make_config(**arguments)
        return CrossModalDistillTrainer(
            model=student if model is None else model,
            args=config,
            family=family,
            teacher=None if config.kl_weight == 0 else teacher,
            train_dataset=pairs["train"] if train_dataset is None else train_dataset,
            eval_dataset=eval_dataset,
            peft_config=peft_config,
        )

    return make
