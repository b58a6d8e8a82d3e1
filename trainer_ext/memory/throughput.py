"""How long a data set takes on a card: the arithmetic of every token, and the weights that are read for it."""

from trainer_ext.memory.gpus import Gpu
from trainer_ext.memory.plan import Plan

# Products of a weight with a token: forward, forward again (checkpointing), backward to the states, to the weight.
FORWARD, BACKWARD = 2, 2


def count_flops(plan: Plan, checkpointing: bool, trains_weights: bool) -> int:
    """Floating-point operations of one micro-batch: products of weights with tokens, student's and teacher's."""
    passes = FORWARD * (2 if checkpointing else 1) + BACKWARD * (2 if trains_weights else 1)
    lengths = plan.lengths
    return (
        passes * plan.student_parameters * lengths.tokens
        + (passes - (FORWARD if checkpointing else 0)) * plan.head_parameters * lengths.scored
        + FORWARD * plan.teacher_parameters * lengths.teacher_tokens
        + FORWARD * plan.teacher_head_parameters * lengths.teacher_scored
    )


def estimate_step_seconds(
    plan: Plan, card: Gpu, utilization: float, checkpointing: bool, trains_weights: bool
) -> float | None:
    """Seconds of one micro-batch; None where the card's speed is not known.

    Args:
        utilization: share of the card's matrix peak that is reached.
    """
    if card.bf16_tflops is None or card.bandwidth_gb_s is None:
        return None
    flops = count_flops(plan, checkpointing, trains_weights)
    # 4-bit weights are unfolded for every pass: read, written and read again in 2 bytes each.
    passes = 3 if checkpointing else 2
    unfolded = plan.dequantized_parameters * passes + plan.dequantized_teacher_parameters
    arithmetic = flops / (card.bf16_tflops * 1e12 * utilization)
    return arithmetic + unfolded * 4.5 / (card.bandwidth_gb_s * 1e9)


def describe_hours(step_seconds: float, questions: int, rows: int, epochs: float) -> str:
    """A run over so many rows, in words."""
    hours = step_seconds / questions * rows * epochs / 3600
    return (
        f"{step_seconds:.2f} s a micro-batch, {hours:.1f} h for {rows:,} rows x {epochs:g} epochs"
    )
