"""Modules of a student that no recipe trains."""

from collections.abc import Iterable
from typing import Any

from torch import nn


def freeze_modules(model: nn.Module, names: Iterable[str], tower: str) -> None:
    """Freeze modules, and keep gradients out of the audio tower among them."""
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    model.get_submodule(tower).register_forward_hook(detach_output)


def detach_output(tower: nn.Module, inputs: Any, output: Any) -> Any:
    """Return the output of a frozen tower without its graph.

    Under gradient checkpointing transformers makes the output of the first layer require gradients, also the tower's
    (it hooks every `get_input_embeddings`). The tower would be recomputed and differentiated for nothing.
    """
    return type(output)({name: value.detach() for name, value in output.items()})
