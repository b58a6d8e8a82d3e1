"""A Qwen3-ASR in the published layout, small and random, with a tokenizer of the tiny lab's words and its own marks."""

from pathlib import Path

from transformers import (
    AutoTokenizer,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from tests.support.lab import STUDENT
from tests.support.random_student import save_random_student

MARKS = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
# The layout of the published chat template: a system prompt and clips; written parts of the user's turn are left out.
TEMPLATE = (
    "<|im_start|>system\n{% for message in messages %}{% if message['role'] == 'system' %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ part['text'] }}{% endfor %}{% endif %}{% endif %}{% endfor %}<|im_end|>\n<|im_start|>user\n"
    "{% for message in messages %}{% if message['content'] is not string %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}<|im_end|>\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_qwen3_asr(folder: Path) -> Path:
    """Write the checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(STUDENT, extra_special_tokens=MARKS)
    tokenizer.chat_template = None
    config = Qwen3ASRConfig(
        audio_config=dict(
            model_type="qwen3_asr_encoder", d_model=16, encoder_layers=1, encoder_attention_heads=2,
            encoder_ffn_dim=32, output_dim=32, downsample_hidden_size=8,
        ),
        text_config=dict(
            model_type="qwen3", vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
            tie_word_embeddings=True,
        ),
        audio_token_id=tokenizer.convert_tokens_to_ids(MARKS["audio_token"]),
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    save_random_student(Qwen3ASRForConditionalGeneration, config, folder)
    Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    return folder
