"""A thinker with all of its parts, and the states inside of its audio tower."""

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, Qwen2_5OmniThinkerForConditionalGeneration

from data_builders.pretrained import WEIGHTS_ONLY


def load_thinker(folder: Path) -> PreTrainedModel:
    """Load a thinker in the precision of its weights."""
    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype="auto", **WEIGHTS_ONLY).eval()


def run_layers(model: PreTrainedModel, layers: int, features: dict[str, Tensor]) -> tuple[Tensor, list[int]]:
    """Return the states after a tower's first layers for a batch of clips, (frames of all, width), and their frames.

    Args:
        features: of the family's encoder, 100 frames per second; the tower halves them.
    """
    tower = model.model.audio_tower
    features = {name: values.to(tower.device) for name, values in features.items()}
    frames, _ = tower._get_feat_extract_output_lengths(features["feature_attention_mask"].sum(1))
    found: list[Tensor] = []
    every_layer, tower.layers = tower.layers, tower.layers[:layers]
    hook = tower.layers[-1].register_forward_hook(lambda _module, _inputs, output: found.append(output[0]))
    try:
        model.get_audio_features(**features)
    finally:
        hook.remove()
        tower.layers = every_layer
    return found[0], frames.tolist()
