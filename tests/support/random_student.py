"""Random weights for a speech LLM with a projector."""

from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel


def save_random_student(model_class: type[PreTrainedModel], config: PretrainedConfig, folder: Path) -> None:
    """Write random weights, the same for the same config."""
    torch.manual_seed(0)
    model = model_class(config)
    for parameter in model.model.multi_modal_projector.parameters():
        parameter.data.normal_(std=0.5)  # loud enough that a clip moves the states
    model.save_pretrained(folder)
