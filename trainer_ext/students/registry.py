"""Which module knows which speech LLM. A new family is one file beside this one and one line here."""

import importlib
from typing import Any

from transformers import AutoConfig, PretrainedConfig

STUDENTS = {
    "qwen2_5_omni": "trainer_ext.students.qwen2_5_omni:Qwen2_5OmniStudent",
    "qwen2_5_omni_thinker": "trainer_ext.students.qwen2_5_omni:Qwen2_5OmniStudent",
}


def load_student_family(name_or_path: str, revision: str | None = None) -> Any:
    """Everything of a student but its weights: prompts, features, limits, how to load and adapt it.

    Raises:
        ValueError: nobody has written this family yet.
    """
    family, _ = find_student_family(name_or_path, revision)
    return family.from_pretrained(name_or_path, revision=revision)


def find_student_family(
    name_or_path: str, revision: str | None = None
) -> tuple[Any, PretrainedConfig]:
    """The class of a student and its config, from config.json alone.

    Raises:
        ValueError: nobody has written this family yet.
    """
    config = AutoConfig.from_pretrained(name_or_path, revision=revision)
    if config.model_type not in STUDENTS:
        raise ValueError(
            f"{name_or_path} is a {config.model_type!r} model; student families known: {', '.join(STUDENTS)}"
        )
    module, _, attribute = STUDENTS[config.model_type].partition(":")
    family = getattr(importlib.import_module(module), attribute)
    return family, family.read_config(config)
