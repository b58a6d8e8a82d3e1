"""A thinker with all of its parts, and the states inside of its audio tower."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2_5OmniThinkerForConditionalGeneration

from data_builders.pretrained import WEIGHTS_ONLY


def load_thinker(folder: Path) -> PreTrainedModel:
    """Load a thinker in the precision of its weights."""
    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype="auto", **WEIGHTS_ONLY).eval()


def run_layers(tower: nn.Module, layers: int, features: dict[str, Any]) -> tuple[Tensor, list[int]]:
    """Return the states after a tower's first layers for a batch of clips, (frames of all, width), and their frames.

    Args:
        features: of the family's encoder, 100 frames per second; the tower halves them.
    """
    mask = features["feature_attention_mask"].to(tower.device)
    lengths = mask.sum(1)
    packed = features["input_features"].to(tower.device).permute(0, 2, 1)[mask.bool()].T  # (mel bins, all frames)
    found: list[Tensor] = []
    every_layer, tower.layers = tower.layers, tower.layers[:layers]
    hook = tower.layers[-1].register_forward_hook(lambda _module, _inputs, output: found.append(output[0]))
    try:
        tower(packed, feature_lens=lengths, aftercnn_lens=(lengths - 1) // 2 + 1)
    finally:
        hook.remove()
        tower.layers = every_layer
    return found[0], ((lengths - 1) // 2 + 1).tolist()
