"""Student families by `model_type`. A new family is one file in this folder and one line here."""

from pathlib import Path

from transformers import PretrainedConfig

from data_builders.pretrained import load_config
from data_builders.registry import load_class
from trainer_ext.students.base import StudentFamily

STUDENTS = {
    "qwen2_5_omni": "trainer_ext.students.qwen2_5_omni:Qwen2_5OmniStudent",
    "qwen2_5_omni_thinker": "trainer_ext.students.qwen2_5_omni:Qwen2_5OmniStudent",
    "qwen3_asr": "trainer_ext.students.qwen3_asr:Qwen3ASRStudent",
    "qwen2_audio": "trainer_ext.students.qwen2_audio:Qwen2AudioStudent",
    "voxtral": "trainer_ext.students.voxtral:VoxtralStudent",
}


def load_student_family(name_or_path: str, revision: str | None = None) -> StudentFamily:
    """Load everything of a student but its weights: prompts, features, limits, structure.

    Raises:
        ValueError: the model type is not registered.
    """
    family, _ = find_student_family(name_or_path, revision)
    return family.from_pretrained(name_or_path, revision=revision)


def find_student_family(name_or_path: str, revision: str | None = None) -> tuple[type[StudentFamily], PretrainedConfig]:
    """Return the class of a student and the student's config, from config.json alone.

    Raises:
        ValueError: there is no such folder, or the model type is not registered.
    """
    if Path(name_or_path).is_absolute() and not Path(name_or_path).is_dir():
        raise ValueError(
            f"there is no folder {name_or_path}, which is to hold the model: an adapter records the folder of its "
            "base. Name the base where it is now"
        )
    config = load_config(name_or_path, revision)
    family = load_class(STUDENTS, config.model_type, f"model_type of {name_or_path}")
    return family, family.read_config(config)
