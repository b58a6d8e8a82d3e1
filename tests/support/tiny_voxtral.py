"""A Voxtral in the published layout, small and random, with a tokenizer file of the tiny lab's tokens.

`save_tekken_teacher` makes a text LLM of the same vocabulary.
"""

import base64
import json
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.mistral import convert_tekken_tokenizer

from tests.support.lab import STUDENT
from tests.support.random_student import save_random_student

# The published file's first control tokens, by their ids.
CONTROL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "[AUDIO]",
    "[BEGIN_AUDIO]", "[TRANSCRIBE]",
)  # fmt: skip
ALL_CONTROL = 40
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEACHER_TEMPLATE = (
    "<s>{% for message in messages %}{% if message['role'] == 'system' %}[SYSTEM_PROMPT]{{ message['content'] }}"
    "[/SYSTEM_PROMPT]{% else %}[INST]{{ message['content'] }}[/INST]{% endif %}{% endfor %}"
)


def write_tekken(folder: Path) -> Path:
    """Write tekken.json: the 256 bytes, and what the lab's tokenizer has learned of longer ones."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    lab = AutoTokenizer.from_pretrained(STUDENT)
    special = set(lab.get_added_vocab())
    learned = sorted((i, token) for token, i in lab.get_vocab().items() if token not in special)
    pieces = [bytes(byte_of[letter] for letter in token) for _, token in learned]
    pieces = [bytes([byte]) for byte in range(256)] + [piece for piece in pieces if len(piece) > 1]
    content = {
        "config": {
            "pattern": PATTERN, "num_vocab_tokens": len(pieces), "default_vocab_size": len(pieces) + ALL_CONTROL,
            "default_num_special_tokens": ALL_CONTROL, "version": "v7",
        },
        "vocab": [
            {
                "rank": rank,
                "token_bytes": base64.b64encode(piece).decode(),
                "token_str": piece.decode(errors="replace"),
            }
            for rank, piece in enumerate(pieces)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(CONTROL)
        ],
        "audio": {
            "sampling_rate": 16000, "frame_rate": 12.5, "chunk_length_s": 30.0,
            "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
        },
    }  # fmt: skip
    file = folder / "tekken.json"
    file.write_text(json.dumps(content))
    return file


def save_tiny_voxtral(folder: Path) -> Path:
    """Write the checkpoint."""
    tokenizer = convert_tekken_tokenizer(str(write_tekken(folder)), chat_template="")
    config = VoxtralConfig(
        audio_config=dict(
            model_type="voxtral_encoder", hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, num_mel_bins=128, max_source_positions=1500,
        ),
        text_config=dict(
            model_type="llama", vocab_size=len(tokenizer) + 24, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
            max_position_embeddings=1024, rope_theta=1e6, tie_word_embeddings=False,
        ),
        audio_token_id=CONTROL.index("[AUDIO]"),
    )  # fmt: skip
    save_random_student(VoxtralForConditionalGeneration, config, folder)
    WhisperFeatureExtractor(feature_size=128, chunk_length=30).save_pretrained(folder)
    return folder


def save_tekken_teacher(folder: Path) -> Path:
    """Write a text LLM of the same tokens and fewer rows, with both forms of a tokenizer as Mistral publishes them."""
    tokenizer = convert_tekken_tokenizer(str(write_tekken(folder)), chat_template=TEACHER_TEMPLATE)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
