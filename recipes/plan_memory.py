"""Plan a run's memory and time on a GPU from config.json alone, before anything is downloaded.

    recipe YAML -> weights, gradients, optimizer, teacher, activations, loss -> verdict -> savings -> hours

    python recipes/plan_memory.py --config recipes/configs/omni7b_qlora.yaml --gpu 24GB
    python recipes/plan_memory.py --config recipes/configs/omni3b_full.yaml --gpu a100-80gb \\
        --accelerate_config recipes/accelerate/fsdp2.yaml

The plan is for the longest row that `max_length` admits, a clip of `speech_seconds` whose answer fills the row, as
often as a micro-batch has questions. Every argument of recipes/s2t_t2t.py can be tried on the command line.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.hf_argparser import HfArg

from data_builders.arguments import DataArguments, SoftTargetArguments
from data_builders.pretrained import load_config
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.command_line import run_command
from trainer_ext.memory.gpus import GPUS, Gpu, find_gpu, find_present_gpu
from trainer_ext.memory.plan import Lengths, MemoryPlan, plan_run
from trainer_ext.memory.sharding import ONE_PROCESS, Sharding, read_sharding
from trainer_ext.memory.table import describe_lengths, describe_verdict, fits, show_plan
from trainer_ext.memory.throughput import describe_hours, estimate_step_seconds
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.base import StudentArchitecture
from trainer_ext.students.registry import find_student_family

RECIPES = Path(__file__).parent
# Configs of the published models, so that nothing has to be downloaded for their sizes.
MODEL_CONFIGS = RECIPES / "model_configs"
WRITTEN_TOKENS_PER_SECOND = 3.5  # of the text spoken in a second: 2.6 words, 1.3 tokens each
TEMPLATE_TOKENS = 30  # system prompt and turns; a question about a sound is as long again
DEFAULT_MAX_LENGTH = 2048


@dataclass
class PlanArguments:
    """The GPU and the data of the plan."""

    gpu: str | None = HfArg(
        default=None, help=f"Memory (24GB) or a name ({', '.join(GPUS)}); unset: this machine's GPU."
    )
    accelerate_config: str | None = HfArg(default=None, help="The config of `accelerate launch`; unset: one process.")
    speech_seconds: float = HfArg(default=20.0, help="The longest clip, in seconds.")
    rows: int = HfArg(default=67_209, help="Questions of the data set, for the time (paper: 67,209).")
    utilization: float = HfArg(default=0.4, help="Fraction of the GPU's matrix peak, for the time.")


def main() -> None:
    parser = RecipeParser(
        (ModelArguments, DataArguments, SoftTargetArguments, CrossModalDistillConfig, PlanArguments),
        RECIPES / "configs" / "tiny.yaml",
        # This machine may lack the run's precision; the run itself checks its own.
        always=("--use_cpu", "true"),
        alternatives=[("dataset_name", "questions")],
        opened=(),  # a plan is made before the data and the models are
    )
    keep_libraries_quiet()
    model, _, soft, training, plan = parser.parse_args_and_config()
    gpu = find_present_gpu() if plan.gpu is None else find_gpu(plan.gpu)
    sharding = read_sharding(Path(plan.accelerate_config)) if plan.accelerate_config else ONE_PROCESS
    planned = plan_recipe(model, training, plan.speech_seconds, sharding, soft.soft_targets_k)
    print(describe_lengths(planned))
    show_plan(planned.parts)
    if gpu is None:
        print("this machine has no GPU: name one by --gpu (24GB, rtx4090) for a verdict")
        return
    print(describe_verdict(planned, gpu))
    if not fits(planned, gpu):
        show_savings(model, training, plan, sharding, soft.soft_targets_k, gpu)
    checkpointing = bool(training.activation_checkpointing)
    seconds = estimate_step_seconds(planned, gpu, plan.utilization, checkpointing, not model.use_peft)
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
) -> MemoryPlan:
    """Plan a run without its data."""
    assert model.model_name_or_path is not None
    family, student = find_student_family(find_config(model.model_name_or_path))
    teacher: PretrainedConfig | None = None
    if training.teacher_kind == "model":
        assert model.teacher_model_name_or_path is not None
        teacher = load_config(find_config(model.teacher_model_name_or_path))
    lengths = worst_case_lengths(training, family, speech_seconds)
    return plan_run(model, training, family, student, teacher, lengths, sharding, soft_targets_k)


def find_config(name_or_path: str) -> str:
    """Return the folder of a bundled config, of published models and of those that recipes make, or the name."""
    bundled = MODEL_CONFIGS / name_or_path.removeprefix("outputs/")
    return str(bundled) if bundled.is_dir() and not Path(name_or_path).is_dir() else name_or_path


def worst_case_lengths(
    training: CrossModalDistillConfig, family: StudentArchitecture, speech_seconds: float
) -> Lengths:
    """Return a micro-batch of the longest rows."""
    questions = training.per_device_train_batch_size
    longest = training.max_length or DEFAULT_MAX_LENGTH
    audio_tokens = round(family.audio_tokens_per_second * (family.padded_clip_seconds or speech_seconds))
    prompt = {
        "t2t": TEMPLATE_TOKENS + round(WRITTEN_TOKENS_PER_SECOND * speech_seconds),
        "s2t": TEMPLATE_TOKENS + audio_tokens,
        "a2t": 2 * TEMPLATE_TOKENS + audio_tokens,
    }
    response = longest - max(prompt[channel] for channel in training.channels)
    if response < 1:
        raise ValueError(f"max_length {longest} has no room for an answer after {speech_seconds:g} s of speech")
    live = training.teacher_kind in ("model", "self")
    return Lengths(
        tokens=questions * sum(prompt[channel] + response for channel in training.channels),
        scored=questions * response * len(training.channels),
        questions=questions,
        teacher_tokens=questions * (prompt["t2t"] + response) if live else 0,
        teacher_scored=questions * response,
        input_bytes=questions * round(speech_seconds * family.feature_bytes_per_second),
    )


def memory_savings(model: ModelArguments, training: CrossModalDistillConfig) -> Iterator[tuple[Any, str, Any]]:
    """Yield changes that make a run smaller, the cheapest in quality first: object, attribute, value."""
    if not training.activation_checkpointing:
        yield training, "activation_checkpointing", True
    if training.per_device_train_batch_size > 1:
        yield training, "per_device_train_batch_size", 1
    if not model.use_peft and "8bit" not in str(training.optim):
        yield training, "optim", "adamw_bnb_8bit"
    if training.teacher_kind == "model":
        if not model.teacher_load_in_4bit:
            yield model, "teacher_load_in_4bit", True
        yield training, "teacher_kind", "stored"
    if not model.use_peft:
        yield model, "use_peft", True
        if model.dtype == "float32":
            yield model, "dtype", "bfloat16"
    if not model.load_in_4bit:
        yield model, "load_in_4bit", True
    for length in (1024, 768, 512):
        if length < (training.max_length or DEFAULT_MAX_LENGTH):
            yield training, "max_length", length


def show_savings(
    model: ModelArguments,
    training: CrossModalDistillConfig,
    plan: PlanArguments,
    sharding: Sharding,
    soft_targets_k: int,
    gpu: Gpu,
) -> None:
    """Print one change after the other until the run fits, each with its verdict."""
    model, training = copy.copy(model), copy.copy(training)
    if not model.use_peft and sharding.processes == 1:
        print(
            "a full fine-tune is made for several cards: plan it with --accelerate_config "
            "recipes/accelerate/fsdp2.yaml (its num_processes are the cards)"
        )
    print("savings, one after the other:")
    for owner, attribute, value in memory_savings(model, training):
        setattr(owner, attribute, value)
        try:
            smaller = plan_recipe(model, training, plan.speech_seconds, sharding, soft_targets_k)
        except ValueError:  # no room for an answer any more
            break
        setting = f"{attribute}: {str(value).lower()}"
        print(f"  {setting:<32} {describe_verdict(smaller, gpu)}")
        if fits(smaller, gpu):
            return
    print("  a larger GPU, or more of them (--accelerate_config recipes/accelerate/fsdp2.yaml)")


if __name__ == "__main__":
    run_command(main)
