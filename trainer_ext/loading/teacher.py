"""Load the teacher that a run's arguments name."""

from data_builders.causal_lm import TeacherSettings
from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.students.base import StudentEncoder
from trainer_ext.teachers.base import Teacher
from trainer_ext.teachers.live import LiveTeacher
from trainer_ext.teachers.self_teacher import SelfTeacher
from trainer_ext.teachers.stored import SoftTargets, StoredTeacher


def load_teacher(
    training: CrossModalDistillConfig,
    student: StudentEncoder,
    settings: TeacherSettings | None,
    soft_targets_path: str | None = None,
    soft_targets_k: int = 64,
    fingerprint: str | None = None,
) -> Teacher | None:
    """Return the teacher of `teacher_kind`; None for "none".

    Args:
        settings: of teacher_kind "model".
        soft_targets_path, soft_targets_k: of teacher_kind "stored", see `data_builders.soft_targets.cache`.
        fingerprint: model @ revision that stored soft targets must be from; None for any.

    Raises:
        ValueError: an argument that this kind needs is missing, or stored soft targets do not fit the run.
    """
    if training.teacher_kind == "model":
        if settings is None:
            raise ValueError(
                "teacher_kind is 'model', so teacher_model_name_or_path must name the text LLM to learn from"
            )
        return LiveTeacher.from_settings(settings)
    if training.teacher_kind == "self":
        return SelfTeacher(student)
    if training.teacher_kind == "stored":
        if soft_targets_path is None:
            raise ValueError(
                "teacher_kind is 'stored', so soft_targets_path must name the folder that recipes/cache_teacher.py made"
            )
        table = SoftTargets.from_pretrained(
            soft_targets_path,
            student=student,
            temperature=training.temperature,
            k=soft_targets_k,
            teacher=fingerprint,
        )
        return StoredTeacher(table)
    return None
