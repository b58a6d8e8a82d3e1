"""Pocket TTS by its own code, with a model of random weights: what is tested is how it is called."""

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer, models, pre_tokenizers

pytest.importorskip("pocket_tts", reason="pip install -e '.[pocket]'")

from data_builders.arguments import BuildArguments
from data_builders.speech.synthesis import load_engine

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


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pocket")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = folder / "tiny.yaml"
    config.write_text(CONFIG.format(size=len(letters), tokenizer=folder / "tokenizer.json"))
    arguments = BuildArguments(questions="x", speech_engine="pocket", speech_model=str(config))
    engine = load_engine(arguments)
    yield engine
    engine.close()


@pytest.fixture
def clip(tmp_path):
    file = tmp_path / "voice.wav"
    soundfile.write(file, np.sin(np.arange(24_000) / 20).astype(np.float32) / 2, 24_000)
    return str(file)


def test_equal_calls_give_equal_clips_in_any_order(engine, clip):
    """The model samples; a resumed build would be another build."""
    one, rate_hz = engine.synthesize("Hello there.", clip)
    other, _ = engine.synthesize("Who are you?", clip)
    again, _ = engine.synthesize("Hello there.", clip)
    assert rate_hz == 24_000
    assert one.ndim == 1
    assert one.dtype == np.float32
    assert (
        np.abs(one - again).max() < 1e-5
    )  # frames are decoded in pieces whose size depends on the moment
    assert not np.array_equal(one[:1000], other[:1000])


def test_an_empty_text_is_refused(engine, clip):
    """Nothing to say is said at length by a model that samples."""
    with pytest.raises(ValueError, match="empty text"):
        engine.synthesize("  ", clip)
