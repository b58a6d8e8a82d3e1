"""What a language model keeps and passes through while it is trained on S tokens: its own code, run on fake tensors.

Layers of the real class with the run's adapters, checkpointing and precision go forward and backward on tensors that
have a shape and no content; what lives is counted. So nothing is downloaded, and no formula lags behind the libraries.
Two layers and three tell what any number takes: every further one adds the same.
"""

from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer_ext.memory.tracker import LiveTensorBytes


@dataclass(frozen=True)
class Activations:
    """In bytes, beyond weights, gradients and optimizer states."""

    held: int  # between forward and backward
    forward: int  # the most in the forward
    backward: int  # the most in the backward, what is held included

    def extrapolate(self, more: "Activations", steps: int) -> "Activations":
        """What it would be `steps` layers on, where `more` has one layer more."""
        return Activations(
            *(
                one + steps * (other - one)
                for one, other in zip(astuple(self), astuple(more), strict=True)
            )
        )


class DequantizingLinear(nn.Module):
    """A linear layer that unfolds its 4-bit weight for every product, forwards and backwards, as bitsandbytes does."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.dtype = linear.weight.shape, dtype
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product = _Dequantise.apply(states.to(self.dtype), self.shape)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Dequantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, shape: torch.Size) -> Tensor:
        ctx.shape = shape
        return states @ states.new_empty(shape).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad @ grad.new_empty(ctx.shape), None


def measure_activations(
    language_model: Any,
    hidden_size: int,
    tokens: int,
    dtype: torch.dtype,
    autocast: bool,
    checkpointing: bool,
    quantized: bool,
) -> Activations:
    """One forward and one backward over `tokens` packed into one row.

    Args:
        language_model: with its adapters; its weights are replaced by fake ones, so it is of no use afterwards.
        dtype: of the weights, and of the states where there is no autocast.
        quantized: the linear layers are kept in 4 bits.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        if quantized:
            _replace_linears(language_model, dtype)
        _make_fake(language_model)
        language_model.train()
        if checkpointing:
            language_model.activation_checkpointing_enable()
        states = torch.empty(1, tokens, hidden_size, dtype=dtype).requires_grad_()
        weights = [*language_model.parameters(), *language_model.buffers()]
        for weight in language_model.parameters():
            if weight.requires_grad:
                weight.grad = torch.empty_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        live = LiveTensorBytes([*weights, *gradients])
        with live:
            positions = torch.empty(4, 1, tokens, dtype=torch.long)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                hidden = language_model(
                    inputs_embeds=states * 1,
                    attention_mask={"full_attention": None},
                    position_ids=positions,
                    row_lengths=[tokens],
                    use_cache=False,
                ).last_hidden_state
            held, forward = live.live, live.peak
            live.peak = live.live
            hidden.backward(torch.empty_like(hidden))
        return Activations(held, forward, live.peak)


def _replace_linears(model: nn.Module, dtype: torch.dtype) -> None:
    """Every plain linear layer but those of adapters, which stay whole."""
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
