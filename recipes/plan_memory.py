"""Does this run fit that card, and how long does it take? Answered from config.json, before anything is downloaded.

    recipe YAML -> weights, gradients, optimizer, teacher, activations, loss -> verdict -> what to change -> hours

    python recipes/plan_memory.py --config recipes/configs/omni7b_qlora.yaml --gpu 24GB
    python recipes/plan_memory.py --config recipes/configs/omni3b_full.yaml --gpu a100-80gb \\
        --accelerate_config recipes/accelerate/fsdp2.yaml

The plan is for the longest row that `max_length` admits, a clip of `speech_seconds` answered until the row is full, as
often as a micro-batch has questions. Every argument of recipes/s2t_t2t.py can be tried on the command line.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from data_builders.arguments import DataArguments, SoftTargetArguments
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.memory.gpus import GPUS, Gpu, find_gpu, find_present_gpu
from trainer_ext.memory.plan import Lengths, Plan, plan_run
from trainer_ext.memory.sharding import ONE_PROCESS, Sharding, read_sharding
from trainer_ext.memory.table import describe_lengths, describe_verdict, fits, show_plan
from trainer_ext.memory.throughput import describe_hours, estimate_step_seconds
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.registry import find_student_family

RECIPES = Path(__file__).parent
# The sizes of the published models, so that nothing has to be fetched for them.
MODEL_CONFIGS = RECIPES / "model_configs"
AUDIO_TOKENS_A_SECOND = 25
SPOKEN_TOKENS_A_SECOND = (
    3.5  # written tokens of what is said in a second: 2.6 words, 1.3 tokens each
)
TEMPLATE_TOKENS = 30  # system prompt and turns
DEFAULT_MAX_LENGTH = 2048


@dataclass
class PlanArguments:
    """The card and the data that the plan is for."""

    gpu: str | None = field(
        default=None,
        metadata={"help": f"Memory (24GB) or a name ({', '.join(GPUS)}); unset: the card present."},
    )
    accelerate_config: str | None = field(
        default=None, metadata={"help": "The config of `accelerate launch`; unset: one process."}
    )
    speech_seconds: float = field(default=20.0, metadata={"help": "The longest clip, in seconds."})
    rows: int = field(
        default=67_209,
        metadata={"help": "Questions of the data set, for the time (paper: 67,209)."},
    )
    utilization: float = field(
        default=0.4, metadata={"help": "Share of the card's matrix peak reached, for the time."}
    )


def main() -> None:
    parser = RecipeParser(
        (
            ModelArguments,
            DataArguments,
            SoftTargetArguments,
            CrossModalDistillConfig,
            PlanArguments,
        ),
        RECIPES / "configs" / "tiny.yaml",
        # Planned on whatever machine this is: the run itself checks its own.
        always=("--use_cpu", "true"),
    )
    keep_libraries_quiet()
    model, _, soft, training, plan = parser.parse_args_and_config()
    try:
        card = find_present_gpu() if plan.gpu is None else find_gpu(plan.gpu)
        sharding = (
            read_sharding(Path(plan.accelerate_config)) if plan.accelerate_config else ONE_PROCESS
        )
        planned = plan_recipe(model, training, plan.speech_seconds, sharding, soft.soft_targets_k)
    except (ValueError, OSError) as error:  # OSError: no such model
        parser.error(str(error))
    print(describe_lengths(planned))
    show_plan(planned)
    if card is None:
        print("no card here: name one by --gpu (24GB, rtx4090) for a verdict")
        return
    print(describe_verdict(planned, card))
    if not fits(planned, card):
        show_ways_out(model, training, plan, sharding, soft.soft_targets_k, card)
    seconds = estimate_step_seconds(
        planned,
        card,
        plan.utilization,
        bool(training.activation_checkpointing),
        not model.use_peft,
    )
    if seconds is not None:
        questions = planned.lengths.questions * sharding.processes
        hours = describe_hours(seconds, questions, plan.rows, training.num_train_epochs)
        print(f"at {plan.utilization:.0%} of the peak, every row as long as the longest: {hours}")


def plan_recipe(
    model: ModelArguments,
    training: CrossModalDistillConfig,
    speech_seconds: float,
    sharding: Sharding,
    soft_targets_k: int,
) -> Plan:
    """The plan of a run whose data is not there yet."""
    assert model.model_name_or_path is not None
    family, student = find_student_family(find_config(model.model_name_or_path))
    teacher: PretrainedConfig | None = None
    if training.teacher_kind == "model":
        assert model.teacher_model_name_or_path is not None
        teacher = AutoConfig.from_pretrained(find_config(model.teacher_model_name_or_path))
    lengths = worst_case_lengths(training, speech_seconds)
    return plan_run(model, training, family, student, teacher, lengths, sharding, soft_targets_k)


def find_config(name_or_path: str) -> str:
    """The folder of a model whose sizes are known here, or its own name."""
    known = MODEL_CONFIGS / name_or_path
    return str(known) if known.is_dir() else name_or_path


def worst_case_lengths(training: CrossModalDistillConfig, speech_seconds: float) -> Lengths:
    """As many of the longest rows as a micro-batch has questions."""
    questions = training.per_device_train_batch_size
    longest = training.max_length or DEFAULT_MAX_LENGTH
    asked = {
        "t2t": TEMPLATE_TOKENS + round(SPOKEN_TOKENS_A_SECOND * speech_seconds),
        "s2t": TEMPLATE_TOKENS + round(AUDIO_TOKENS_A_SECOND * speech_seconds),
    }
    response = longest - max(asked[channel] for channel in training.channels)
    if response < 1:
        raise ValueError(
            f"max_length {longest} has no room for an answer after {speech_seconds:g} s of speech"
        )
    is_read = training.teacher_kind in ("model", "self")
    return Lengths(
        tokens=questions * sum(asked[channel] + response for channel in training.channels),
        scored=questions * response * len(training.channels),
        questions=questions,
        teacher_tokens=questions * (asked["t2t"] + response) if is_read else 0,
        teacher_scored=questions * response,
        input_bytes=questions * round(speech_seconds * 100) * 128 * 4,
    )


def memory_savings(
    model: ModelArguments, training: CrossModalDistillConfig
) -> Iterator[tuple[str, Any, str, Any]]:
    """What makes a run smaller, the cheapest in quality first: words, object, attribute, value."""
    if not training.activation_checkpointing:
        yield "activation_checkpointing: true", training, "activation_checkpointing", True
    if training.per_device_train_batch_size > 1:
        yield "per_device_train_batch_size: 1", training, "per_device_train_batch_size", 1
    if not model.use_peft and "8bit" not in str(training.optim):
        yield "optim: adamw_bnb_8bit", training, "optim", "adamw_bnb_8bit"
    if training.teacher_kind == "model":
        if not model.teacher_load_in_4bit:
            yield "teacher_load_in_4bit: true", model, "teacher_load_in_4bit", True
        yield "teacher_kind: stored", training, "teacher_kind", "stored"
    if not model.use_peft:
        yield "use_peft: true", model, "use_peft", True
        if model.dtype == "float32":
            yield "dtype: bfloat16", model, "dtype", "bfloat16"
    if not model.load_in_4bit:
        yield "load_in_4bit: true", model, "load_in_4bit", True
    for length in (1024, 768, 512):
        if length < (training.max_length or DEFAULT_MAX_LENGTH):
            yield f"max_length: {length}", training, "max_length", length


def show_ways_out(
    model: ModelArguments,
    training: CrossModalDistillConfig,
    plan: PlanArguments,
    sharding: Sharding,
    soft_targets_k: int,
    card: Gpu,
) -> None:
    """One change after the other until it fits, each with what is left to pay."""
    model, training = copy.copy(model), copy.copy(training)
    print("what would help, one after the other:")
    for words, owner, attribute, value in memory_savings(model, training):
        setattr(owner, attribute, value)
        try:
            smaller = plan_recipe(model, training, plan.speech_seconds, sharding, soft_targets_k)
        except ValueError:  # no room for an answer any more
            break
        print(f"  {words:<32} {describe_verdict(smaller, card)}")
        if fits(smaller, card):
            return
    print("  a larger card, or more of them (--accelerate_config recipes/accelerate/fsdp2.yaml)")


if __name__ == "__main__":
    main()
