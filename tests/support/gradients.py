"""Gradients of a trainer, and their distance."""

import torch

from trainer_ext.loss.alignment import IGNORE_INDEX
from trainer_ext.trainer import CrossModalDistillTrainer

TOLERANCE = 1e-5


def gradients(trainer: CrossModalDistillTrainer, batches: list[dict]) -> dict[str, torch.Tensor]:
    """Return the gradients of one optimizer step over these micro-batches."""
    trainer.model.zero_grad()
    tokens = sum(int((batch["labels"] != IGNORE_INDEX).sum()) for batch in batches)
    for batch in batches:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=tokens).backward()
    return named_gradients(trainer.model)


def named_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of a model's gradients by parameter name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the relative distance of two gradients, all parameters together."""
    assert ours.keys() == theirs.keys()
    assert ours
    apart = torch.stack([(ours[name] - theirs[name]).norm() for name in ours]).norm()
    return float(apart / torch.stack([ours[name].norm() for name in ours]).norm())
