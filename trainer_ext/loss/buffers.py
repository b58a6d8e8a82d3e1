"""Bytes of the loss's buffers, for the memory plan; beside the loss, so that both change together."""

from trainer_ext.loss.chunk_torch import BLOCK_LOGITS, BUFFERS
from trainer_ext.loss.distillation import even_chunk_size

FLOAT32 = 4


def estimate_loss_bytes(
    tokens: int,
    teacher_tokens: int | None,
    vocab_size: int,
    hidden_size: int,
    trains_head: bool,
    half_precision: bool,
    copies_head: bool,
    in_kernels: bool,
) -> int:
    """Return the peak bytes of `distillation_loss`, gradients of hidden states and head included.

    Args:
        tokens: scored tokens of the student.
        teacher_tokens: of a live teacher, or of the student as its own; None for stored targets or no teacher.
        half_precision: products with the heads are in half precision.
        in_kernels: the chunks are computed by Triton kernels, which need no scratch buffers.
        copies_head: the head is kept in float32, and cast for the products.
    """
    chunk = even_chunk_size(tokens, teacher_tokens)
    teacher_chunk = 0 if teacher_tokens is None else -(-chunk * teacher_tokens // tokens)
    head_bytes = 2 if half_precision else FLOAT32
    logits = FLOAT32 * vocab_size * (chunk + teacher_chunk)
    if half_precision:
        logits += 2 * vocab_size * chunk
    scratch = 0 if in_kernels else FLOAT32 * BUFFERS * max(BLOCK_LOGITS["cpu"], vocab_size)
    scratch = min(scratch, FLOAT32 * BUFFERS * vocab_size * chunk)
    states_grad = tokens * hidden_size * (head_bytes + FLOAT32)
    head = vocab_size * hidden_size
    head_grad = head * (FLOAT32 + head_bytes) if trains_head else 0
    head_copy = 2 * head if copies_head else 0
    return logits + scratch + states_grad + head_grad + head_copy
