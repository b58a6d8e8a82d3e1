"""The identity of a run: arguments, student, adapter, teacher, data and processes; see checkpoints/identity.py."""

from typing import Any

from peft import PeftConfig
from transformers import PreTrainedModel, TrainingArguments

from trainer_ext.checkpoints.identity import flatten, hash_weights
from trainer_ext.supported_arguments import WITHOUT_EFFECT_ON_WEIGHTS
from trainer_ext.teachers.base import Teacher

# Of an adapter's config: where it came from and how it is used, not what is trained.
ORIGIN = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "task_type")


def describe_run(
    args: TrainingArguments,
    student: PreTrainedModel,
    peft_config: PeftConfig | None,
    teacher: Teacher | None,
    data_digest: str,
) -> dict[str, Any]:
    """Return everything that the run's weights depend on, by key.

    Args:
        student: with the weights that it has before training.
        data_digest: hash of the training rows.
    """
    arguments = {name: value for name, value in args.to_dict().items() if name not in WITHOUT_EFFECT_ON_WEIGHTS}
    identity = {key.removeprefix("args."): value for key, value in flatten("args", arguments).items()}
    if peft_config is not None:
        adapter = {name: value for name, value in peft_config.to_dict().items() if name not in ORIGIN}
        identity |= flatten("lora", adapter)
    if teacher is not None:
        identity |= flatten("teacher", teacher.describe())
    return {
        **identity,
        "student weights": hash_weights(student),
        "student dtype": str(student.dtype),
        "training rows": data_digest,
        "processes": args.world_size,
    }
