"""The memory plan of a run whose data are not made yet: from the lengths of its prompts."""

from collections.abc import Sequence

from data_builders.pretrained import load_config
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.memory.plan import Lengths, MemoryPlan, plan_run
from trainer_ext.students.base import StudentFamily


def plan_prompts(
    model: ModelArguments,
    training: CrossModalDistillConfig,
    family: StudentFamily,
    longest_prompts: Sequence[int],
    longest_clip_seconds: float,
    answer_tokens: int,
) -> MemoryPlan:
    """Plan the peak of a micro-batch of the longest rows.

    Args:
        longest_prompts: tokens of the longest prompt of each channel.
        answer_tokens: of the longest answer.
    """
    longest = [prompt + answer_tokens for prompt in longest_prompts]
    many = training.per_device_train_batch_size
    if training.max_batch_tokens is not None:
        many = max(1, training.max_batch_tokens // sum(longest))
    lengths = Lengths(
        tokens=many * sum(longest), scored=many * len(longest) * answer_tokens, questions=many,
        teacher_tokens=many * max(longest), teacher_scored=many * answer_tokens,
        input_bytes=many * round(float(longest_clip_seconds) * family.feature_bytes_per_second),
    )  # fmt: skip
    teacher = None
    if training.teacher_kind == "model":
        assert model.teacher_model_name_or_path is not None
        teacher = load_config(model.teacher_model_name_or_path, model.teacher_model_revision)
    return plan_run(model, training, family, family.config, teacher, lengths)
