"""From a run's arguments to its teacher."""

from typing import Any

from transformers import PreTrainedModel

from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.teachers.base import Teacher
from trainer_ext.teachers.live import OFFLOAD, LiveTeacher, load_causal_lm
from trainer_ext.teachers.self_teacher import SelfTeacher
from trainer_ext.teachers.stored import SoftTargets, StoredTeacher


def load_teacher(
    model: ModelArguments,
    training: CrossModalDistillConfig,
    family: Any,
    soft_targets: str | None = None,
    soft_targets_k: int = 64,
    teacher_identity: str | None = None,
) -> Teacher | None:
    """The teacher that `teacher_kind` names; None for "none".

    Args:
        family: the student's family.
        soft_targets, soft_targets_k: of teacher_kind "stored", see `data_builders.soft_targets.cache`.
        teacher_identity: model @ revision that stored soft targets must be from; None for any.

    Raises:
        ValueError: an argument that this kind needs is missing, or what is stored does not fit the run.
    """
    if training.teacher_kind == "model":
        if model.teacher_model_name_or_path is None:
            raise ValueError(
                "teacher_kind is 'model', so teacher_model_name_or_path must name the text LLM to learn from"
            )
        return LiveTeacher.from_pretrained(
            model.teacher_model_name_or_path,
            revision=model.teacher_model_revision,
            dtype=model.teacher_dtype or model.dtype,
            load_in_4bit=model.teacher_load_in_4bit,
            device_map=model.teacher_device_map,
        )
    if training.teacher_kind == "self":
        return SelfTeacher(family)
    if training.teacher_kind == "stored":
        if soft_targets is None:
            raise ValueError(
                "teacher_kind is 'stored', so soft_targets_path must name the folder that recipes/cache_teacher.py made"
            )
        return StoredTeacher(
            SoftTargets.from_pretrained(
                soft_targets,
                family=family,
                temperature=training.temperature,
                k=soft_targets_k,
                teacher=teacher_identity,
            )
        )
    return None


def name_precision(model: ModelArguments) -> str:
    """What tells the answers of a quantized teacher from those of the whole one; nothing for the whole one."""
    return "in 4-bit" if model.teacher_load_in_4bit else ""


def load_answering_teacher(model: ModelArguments) -> PreTrainedModel:
    """The text LLM that answers the questions of a new data set, where and how the run wants its teacher.

    What is to visit the device layer by layer is spread over device and host instead, which generation can use.
    """
    assert model.teacher_model_name_or_path is not None
    return load_causal_lm(
        model.teacher_model_name_or_path,
        model.teacher_model_revision,
        model.teacher_dtype or model.dtype,
        model.teacher_load_in_4bit,
        "auto" if model.teacher_device_map == OFFLOAD else model.teacher_device_map,
    )
