"""Activations of a language model in training on S tokens, measured on fake tensors.

Layers of the real class, with the run's adapters, checkpointing and precision, run forward and backward on tensors
that have a shape and no content, and live bytes are counted. Nothing is downloaded, and no formula can fall behind the
libraries.
"""

from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer_ext.memory.tracker import LiveTensorBytes


@dataclass(frozen=True)
class Activations:
    """Bytes beyond weights, gradients and optimizer states."""

    held: int  # between forward and backward
    forward: int  # peak of the forward
    backward: int  # peak of the backward, held bytes included

    def extrapolate(self, more: "Activations", layers: int) -> "Activations":
        """Return the activations with `layers` more layers, where `more` has one more."""
        return Activations(*(a + layers * (b - a) for a, b in zip(astuple(self), astuple(more), strict=True)))


class DequantizingLinear(nn.Module):
    """A linear layer that dequantizes its 4-bit weight for every product, as bitsandbytes does."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.dtype = linear.weight.shape, dtype
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product = _Dequantize.apply(states.to(self.dtype), self.shape)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Dequantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, shape: torch.Size) -> Tensor:
        ctx.shape = shape
        return states @ states.new_empty(shape).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad @ grad.new_empty(ctx.shape), None


def measure_activations(
    language_model: Any,
    packed_inputs: dict[str, Any],
    hidden_size: int,
    dtype: torch.dtype,
    autocast: bool,
    checkpointing: bool,
    quantized: bool,
) -> Activations:
    """Measure one forward and one backward over rows packed into one.

    Args:
        language_model: with its adapters; its weights are replaced by fake ones, so it is of no use afterwards.
        packed_inputs: of the family, for S tokens.
        dtype: of the weights, and of the hidden states without autocast.
        quantized: the linear layers are stored in 4 bits.
    """
    tokens = sum(packed_inputs["row_lengths"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        if quantized:
            _replace_linears(language_model, dtype)
        _make_fake(language_model)
        language_model.train()
        if checkpointing:
            language_model.activation_checkpointing_enable()
        hidden_states = torch.empty(1, tokens, hidden_size, dtype=dtype).requires_grad_()
        weights = [*language_model.parameters(), *language_model.buffers()]
        for weight in language_model.parameters():
            if weight.requires_grad:
                weight.grad = torch.empty_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        live = LiveTensorBytes([*weights, *gradients])
        with live:
            # Copies, so that the inputs' bytes are counted.
            inputs = {k: torch.empty_like(v) if isinstance(v, Tensor) else v for k, v in packed_inputs.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                output = language_model(
                    inputs_embeds=hidden_states * 1,
                    attention_mask=torch.empty(1, 1, 1, 1),  # used as it is: none is made; packed rows ignore it
                    **inputs,
                    use_cache=False,
                ).last_hidden_state
            held, forward = live.live, live.peak
            live.peak = live.live
            output.backward(torch.empty_like(output))
        return Activations(held, forward, live.peak)


def _replace_linears(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every plain linear layer but those of adapters, which are never quantized."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and "lora_" not in name:
            model.set_submodule(name, DequantizingLinear(module, dtype))


def _make_fake(model: nn.Module) -> None:
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            fake = torch.empty(weight.shape, dtype=weight.dtype)
            module.register_parameter(name, nn.Parameter(fake, weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
