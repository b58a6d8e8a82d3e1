"""Weights without memory, for models of which only shapes and names matter."""

import torch
from torch import nn
from transformers import PreTrainedModel


def place_empty_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Replace every weight of a model on the meta device by one zero that is expanded to its shape; ties stay."""
    placed: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight not in placed:
                placeholder = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
                placed[weight] = nn.Parameter(placeholder, requires_grad=False)
            module.register_parameter(name, placed[weight])
    return model
