"""Small text LLMs for recipes/nano_omni."""

import re
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tests.support.lab import TEACHER

SHAPE = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512,
)  # fmt: skip


def save_text_model(kind: str, folder: Path) -> str:
    """Write a text LLM with random weights and the lab's tokenizer: a full or a spare vocabulary, tied or not."""
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    torch.manual_seed(0)
    model: PreTrainedModel
    if kind == "llama":  # no biases, head tied, no row to spare
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **SHAPE))
    elif kind == "llama3":  # rotary frequencies scaled, a head of its own
        rope = dict(
            rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64,
        )  # fmt: skip
        config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, rope_parameters=rope, **SHAPE)
        model = LlamaForCausalLM(config)
    else:  # qwen2: biases, as many spare rows as the published ones have
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer) + 271, tie_word_embeddings=False, **SHAPE))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # a text LLM has other control tokens
        file = folder / name
        file.write_text(
            re.sub(r"<\|(AUDIO|audio_bos|audio_eos|IMAGE|VIDEO|vision_\w+)\|>", r"<|unused_\1|>", file.read_text())
        )
    return str(folder)
