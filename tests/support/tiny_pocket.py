"""A Pocket TTS model with random weights."""

from pathlib import Path

import numpy as np
import soundfile
from tokenizers import Tokenizer, models, pre_tokenizers

CONFIG = """
flow_lm:
  dtype: float32
  flow: {{depth: 1, dim: 16}}
  transformer: {{d_model: 32, hidden_scale: 1, max_period: 10000, num_heads: 2, num_layers: 1}}
  lookup_table: {{dim: 32, n_bins: {size}, tokenizer: tokenizers, tokenizer_path: {tokenizer}}}
mimi:
  dtype: float32
  sample_rate: 24000
  inner_dim: 8
  outer_dim: 16
  channels: 1
  frame_rate: 12.5
  seanet: {{dimension: 16, channels: 1, n_filters: 4, n_residual_layers: 1, ratios: [6, 5, 4], kernel_size: 7,
    residual_kernel_size: 3, last_kernel_size: 3, dilation_base: 2, pad_mode: constant, compress: 2}}
  transformer: {{d_model: 16, num_heads: 2, num_layers: 1, layer_scale: 0.01, context: 50, dim_feedforward: 16,
    input_dimension: 16, output_dimensions: [16]}}
  quantizer: {{dimension: 8, output_dimension: 16}}
"""


def save_tiny_pocket(folder: Path) -> str:
    """Write tokenizer and config of the model; returns the config's path."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = folder / "tiny.yaml"
    config.write_text(CONFIG.format(size=len(letters), tokenizer=folder / "tokenizer.json"))
    return str(config)


def save_voice(file: Path) -> str:
    """Write a prompt clip; returns its path."""
    soundfile.write(file, np.sin(np.arange(24_000) / 20).astype(np.float32) / 2, 24_000)
    return str(file)
