"""A Qwen2-Audio in the published layout, small and random, with the tiny lab's tokenizer and the family's template."""

from pathlib import Path

from transformers import (
    AutoTokenizer,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    WhisperFeatureExtractor,
)

from tests.support.lab import STUDENT
from tests.support.random_student import save_random_student

SPARE_ROWS = 24  # as the published head, which has more rows than any teacher's


def save_tiny_qwen2_audio(folder: Path) -> Path:
    """Write the checkpoint; like the published one, its tokenizer has no template for audio."""
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    tokenizer.chat_template = None
    config = Qwen2AudioConfig(
        audio_config=dict(
            model_type="qwen2_audio_encoder", d_model=16, encoder_layers=1, encoder_attention_heads=2,
            encoder_ffn_dim=32, num_mel_bins=128, max_source_positions=1500,
        ),
        text_config=dict(
            model_type="qwen2", vocab_size=len(tokenizer) + SPARE_ROWS, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
            tie_word_embeddings=False,
        ),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    save_random_student(Qwen2AudioForConditionalGeneration, config, folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=128, chunk_length=30).save_pretrained(folder)
    return folder
