"""The test that trained weights are finite, before anything of them is written."""

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor


def check_finite_weights(model: torch.nn.Module, step: int, accelerator: Accelerator) -> None:
    """Raise FloatingPointError, in every process, if a trained weight is not finite in one of them.

    A loss can be finite while the update after it is not.
    """
    name = find_not_finite(model)
    # Under sharding a process sees its own part; if one of them stops, all do.
    found = torch.tensor(float(name is not None), device=accelerator.device)
    if accelerator.reduce(found, reduction="sum") > 0:
        raise FloatingPointError(
            f"after step {step} {name or 'a weight of another process'} is not finite, so nothing is saved. Lower the "
            "learning rate or set max_grad_norm; the last complete checkpoint can be resumed from."
        )


def find_not_finite(model: torch.nn.Module) -> str | None:
    """Return the first trained weight with a NaN or an infinity in this process's part of it; None if there is none."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            if not torch.isfinite(part).all():
                return name
    return None
