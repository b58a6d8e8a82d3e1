"""The loss: cross-entropy on hard targets and a divergence from the teacher, without (N, V) logits.

    total = sum over response tokens of  CE(label)  +  kl_weight * temperature^2 * KL(teacher || student)

(paper, section 3.2; both softmaxes of the KL at `temperature`). One pass over chunks of tokens: the student's logits
of a chunk are made once and serve CE, KL and the gradient, which is finished in the forward. At most six
(chunk, V) buffers live at a time.

N response tokens, V vocabulary rows of the student, H and H_t hidden sizes of student and teacher.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_TOKENS = 128


@dataclass
class TeacherSignal:
    """What the teacher thinks of N response tokens: its hidden states and the head that reads them."""

    states: Tensor  # (N, H_t)
    head: Tensor  # (V_t, H_t)


@dataclass
class LossParts:
    """The loss and what it is made of."""

    total: Tensor  # scalar, summed over tokens, carries the gradient
    ce: Tensor  # (N,)
    kl: Tensor  # (N,), zero where there is no teacher
    correct: Tensor  # (N,) bool, the label is the likeliest token
    entropy: Tensor  # (N,) of the student's distribution, in nats


def distillation_loss(
    states: Tensor,
    head: Tensor,
    labels: Tensor,
    teacher: TeacherSignal | None = None,
    *,
    kl_weight: float = 0.5,
    temperature: float = 2.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> LossParts:
    """CE and KL per response token, and their weighted sum.

    With unlike numbers of vocabulary rows the KL is taken over the rows both have; CE is over all of the student's.

    Args:
        states: (N, H), the student's states that predict the labels.
        head: (V, H), the student's output embedding.
        labels: (N,), the hard targets.
        teacher: its signal for the same N tokens; None trains on hard targets alone.
        kl_weight: the paper's lambda.
        temperature: the paper's tau.
    """
    total, ce, kl, correct, entropy = _OnePassDistillation.apply(
        states,
        head,
        labels,
        None if teacher is None else teacher.states,
        None if teacher is None else teacher.head,
        kl_weight,
        temperature,
        chunk_tokens,
    )
    return LossParts(total, ce, kl, correct, entropy)


class _OnePassDistillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        states,
        head,
        labels,
        teacher_states,
        teacher_head,
        kl_weight,
        temperature,
        chunk_tokens,
    ):
        precision = torch.promote_types(states.dtype, torch.float32)
        ce, kl, entropy = (states.new_zeros(len(labels), dtype=precision) for _ in range(3))
        correct = torch.zeros_like(labels, dtype=torch.bool)
        states_grad = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        head_grad = torch.zeros_like(head, dtype=precision) if ctx.needs_input_grad[1] else None
        for start in range(0, len(labels), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            logits = (states[chunk].to(head.dtype) @ head.T).to(precision)  # (C, V)
            ce[chunk], correct[chunk], entropy[chunk], logits_grad = _cross_entropy(
                logits, labels[chunk]
            )
            if teacher_states is not None:
                shared = min(len(head), len(teacher_head))
                teacher_logits = (
                    teacher_states[chunk].to(teacher_head.dtype) @ teacher_head[:shared].T
                ).to(precision)
                kl[chunk], divergence_grad = _forward_kl(
                    logits[:, :shared], teacher_logits, temperature
                )
                logits_grad[:, :shared].add_(divergence_grad, alpha=kl_weight * temperature**2)
            logits_grad = logits_grad.to(head.dtype)
            if states_grad is not None:
                states_grad[chunk] = logits_grad @ head
            if head_grad is not None:
                head_grad.addmm_(logits_grad.to(precision).T, states[chunk].to(precision))
        ctx.save_for_backward(states_grad, head_grad)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(ce, kl, correct, entropy)
        return (ce + kl_weight * temperature**2 * kl).sum(), ce, kl, correct, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, total_grad, *_):
        states_grad, head_grad = ctx.saved_tensors
        if states_grad is not None:
            states_grad = states_grad * total_grad.to(states_grad.dtype)
        if head_grad is not None:
            head_grad = (head_grad * total_grad).to(ctx.head_dtype)
        return states_grad, head_grad, None, None, None, None, None, None


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CE, hit and entropy per token (C,), and d CE / d logits (C, V)."""
    log_probs = logits.log_softmax(dim=-1)
    probs = log_probs.exp()
    ce = -log_probs.gather(1, labels[:, None]).squeeze(1)
    correct = logits.argmax(dim=-1) == labels
    # Products and sums stay in this precision; under autocast a dot product would not.
    entropy = -(probs * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(dim=-1)
    grad = probs.scatter_add_(1, labels[:, None], probs.new_full((len(labels), 1), -1.0))
    return ce, correct, entropy, grad


def _forward_kl(
    logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) per token (C,) at `temperature`, and d KL / d logits (C, V)."""
    log_probs = (logits / temperature).log_softmax(dim=-1)
    teacher_log_probs = (teacher_logits / temperature).log_softmax(dim=-1)
    teacher_probs = teacher_log_probs.exp()
    kl = (teacher_probs * (teacher_log_probs - log_probs)).sum(dim=-1)
    return kl, (log_probs.exp() - teacher_probs).div_(temperature)
