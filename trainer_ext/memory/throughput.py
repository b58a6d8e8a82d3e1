"""Time of a data set on a GPU: the arithmetic of every token, and the weights that are dequantized for it."""

from trainer_ext.memory.gpus import Gpu
from trainer_ext.memory.plan import MemoryPlan

# Operations per weight and token of a forward, and of a backward to the states or to the weight.
FORWARD, BACKWARD = 2, 2
DEQUANTIZED_BYTES = 4.5  # per weight: half a byte read, two written, two read


def count_flops(plan: MemoryPlan, checkpointing: bool, trains_weights: bool) -> int:
    """Return the floating-point operations of one micro-batch: products of weights with tokens, student and teacher."""
    per_weight = FORWARD * (2 if checkpointing else 1) + BACKWARD * (2 if trains_weights else 1)
    head_per_weight = per_weight - (FORWARD if checkpointing else 0)
    lengths, parameters = plan.lengths, plan.token_parameters
    return (
        per_weight * parameters.student * lengths.tokens
        + head_per_weight * parameters.student_head * lengths.scored
        + FORWARD * parameters.teacher * lengths.teacher_tokens
        + FORWARD * parameters.teacher_head * lengths.teacher_scored
    )


def estimate_step_seconds(
    plan: MemoryPlan, gpu: Gpu, utilization: float, checkpointing: bool, trains_weights: bool
) -> float | None:
    """Return the seconds of one micro-batch; None where the GPU's speed is unknown.

    Args:
        utilization: fraction of the GPU's matrix peak.
    """
    if gpu.bf16_tflops is None or gpu.bandwidth_gb_s is None:
        return None
    parameters = plan.token_parameters
    passes = 3 if checkpointing else 2
    dequantized = parameters.student_dequantized * passes + parameters.teacher_dequantized
    arithmetic = count_flops(plan, checkpointing, trains_weights) / (gpu.bf16_tflops * 1e12 * utilization)
    return arithmetic + dequantized * DEQUANTIZED_BYTES / (gpu.bandwidth_gb_s * 1e9)


def describe_hours(step_seconds: float, questions: int, rows: int, epochs: float) -> str:
    """Describe the time of a run over so many rows."""
    hours = step_seconds / questions * rows * epochs / 3600
    return f"{step_seconds:.2f} s per micro-batch, {hours:.1f} h for {rows:,} rows x {epochs:g} epochs"
