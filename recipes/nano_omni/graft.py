"""A Qwen2.5-Omni thinker from the weights of a text LLM and of a speech encoder, in the layout of a saved thinker.

    text LLM        model.X, lm_head.X        -> model.X, lm_head.X       unchanged; missing attention biases are zero
    Whisper         encoder.X                 -> audio_tower.X            and new layers that start as the identity
    Qwen2.5-Omni    thinker.audio_tower.X     -> audio_tower.X            with its projector
    -               -                         -> visual.X                 zero, as small as the class allows; never fed

Weights are taken from files, and no model is built: they are in memory once. `compare.py` compares the result with its
parts.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import (
    AddedToken,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5OmniThinkerConfig,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import SinusoidsPositionEmbedding

from data_builders.pretrained import load_config, load_tokenizer, naming
from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles
from trainer_ext.students import qwen2_5_omni_names as layouts
from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent
from trainer_ext.students.registry import find_student_family

# Fields of the thinker's config -> tokens, as Qwen2.5-Omni spells them.
TOKENS = {
    "audio_token_id": "<|AUDIO|>", "audio_start_token_id": "<|audio_bos|>", "audio_end_token_id": "<|audio_eos|>",
    "image_token_id": "<|IMAGE|>", "video_token_id": "<|VIDEO|>", "vision_start_token_id": "<|vision_bos|>",
    "vision_end_token_id": "<|vision_eos|>",
}  # fmt: skip
# A text LLM's template reads a message's content as a string. This puts parts, as the family sends them, into one.
PARTS_TO_TEXT = """\
{%- set ns = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set content = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set content.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- set content.text = content.text + ('<|audio_bos|><|AUDIO|><|audio_eos|>' if part['type'] == 'audio' else part['text']) -%}
{%- endfor -%}
{%- endif -%}
{%- set ns.messages = ns.messages + [dict(message, content=content.text)] -%}
{%- endfor -%}
{%- set messages = ns.messages -%}
"""  # noqa: E501
TEXT_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
TOWER, UNFED, HEAD = "model.audio_tower.", "model.visual.", "lm_head.weight"
OUTPUTS = ("self_attn.out_proj", "fc2")  # of a layer of the tower
POSITION_TOLERANCE = 1e-3  # of positions in float16
ROWS_MULTIPLE = 8  # of the embedding, where it grows: tensor cores want it
WHISPER_FIELDS = (
    "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins", "activation_function",
    "scale_embedding", "max_source_positions",
)  # fmt: skip
WHISPER_CHUNK_FRAMES = 3_000  # 30 s: what Whisper attends over, and the length of its position table


def graft(text_name: str, encoder_name: str, folder: Path, extra_layers: int) -> None:
    """Write a thinker with tokenizer, chat template and feature extractor into a folder.

    Args:
        text_name: folder or Hub id of a Llama- or Qwen2-like causal LM with a chat template.
        encoder_name: folder or Hub id of a Whisper, or of a Qwen2.5-Omni, whose tower has a trained projector.
        extra_layers: layers to add to the tower; they start as the identity.

    Raises:
        ValueError: one of them is of another architecture, or their sizes do not fit.
    """
    text_config, tokenizer = load_config(text_name), load_tokenizer(text_name)
    rows = add_tokens(tokenizer, text_config.vocab_size)
    tower = read_tower(encoder_name, text_config.hidden_size, extra_layers)
    config = Qwen2_5OmniThinkerConfig(
        text_config=describe_text(text_config, rows),
        audio_config=tower.config,
        vision_config=dict(
            depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=text_config.hidden_size,
            fullatt_block_indexes=[0],
        ),
        tie_word_embeddings=text_config.tie_word_embeddings,
        architectures=[Qwen2_5OmniStudent.model_class],
        dtype=text_config.dtype,
        **{field: tokenizer.convert_tokens_to_ids(token) for field, token in TOKENS.items()},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(fill_layout(config, text_name, tower.weights), folder)
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tower.feature_extractor.save_pretrained(folder)


def add_tokens(tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """Add the audio tokens and the reading of parts to a text LLM's tokenizer, in place; returns the embedding's rows.

    Published Qwen2.5 has spare rows, which the new tokens take. A full embedding grows.
    """
    if tokenizer.chat_template is None:
        raise ValueError(f"{tokenizer.name_or_path} has no chat template: name an instruction-tuned model")
    tokenizer.chat_template = PARTS_TO_TEXT + tokenizer.chat_template
    new = [AddedToken(token, special=True, normalized=False) for token in TOKENS.values()]
    tokenizer.add_tokens(new, special_tokens=True)
    if len(tokenizer) <= rows:
        return rows
    return -(-len(tokenizer) // ROWS_MULTIPLE) * ROWS_MULTIPLE


def describe_text(config: PretrainedConfig, rows: int) -> dict[str, Any]:
    """Return the thinker's text config for a text LLM's, with so many rows in the embedding."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    section = head_dim * 3 // 16  # height and width as in Qwen2.5-Omni; all four grids are equal without pictures
    rope = {**config.rope_parameters, "mrope_section": [head_dim // 2 - 2 * section, section, section]}
    fields = {name: getattr(config, name, None) for name in TEXT_FIELDS}
    return {**fields, "vocab_size": rows, "head_dim": head_dim, "rope_parameters": rope}


@dataclass(frozen=True)
class Tower:
    """An audio tower: its config, its weights by their names in the tower, and what makes its features."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    feature_extractor: WhisperFeatureExtractor


def read_tower(name: str, hidden_size: int, extra_layers: int) -> Tower:
    """Read the encoder of a Whisper or the audio tower of a Qwen2.5-Omni.

    Args:
        hidden_size: width of the language model; a projector of another width starts anew.
    """
    config = load_config(name)
    files = SafetensorsFiles.from_pretrained(name)
    with naming(name):
        extractor = WhisperFeatureExtractor.from_pretrained(name)
    if config.model_type == "whisper":
        sizes = {field: getattr(config, field) for field in WHISPER_FIELDS}
        sizes |= {"n_window": WHISPER_CHUNK_FRAMES // 2}  # attention over the whole clip, as Whisper was trained
        weights = rename_whisper(files, name)
    else:
        family, thinker = find_student_family(name)
        sizes = thinker.audio_config.to_dict()
        weights = {
            memory.removeprefix(TOWER): files.read(saved)
            for saved in files.file_of
            if (memory := family.to_memory_name(saved)) is not None and memory.startswith(TOWER)
        }
    weights |= copy_last_layer(weights, sizes["encoder_layers"], extra_layers)
    sizes |= {"encoder_layers": sizes["encoder_layers"] + extra_layers, "output_dim": hidden_size}
    if weights.get("proj.weight", torch.empty(0)).shape[:1] != (hidden_size,):
        width = sizes["d_model"]
        weights["proj.weight"] = (
            torch.randn(hidden_size, width, generator=torch.Generator().manual_seed(0)) / width**0.5
        )
        weights["proj.bias"] = torch.zeros(hidden_size)
        weights["audio_bos_eos_token.weight"] = torch.zeros(2, hidden_size)  # the class has it, and never reads it
    return Tower(sizes, weights, extractor)


def rename_whisper(files: SafetensorsFiles, name: str) -> dict[str, Tensor]:
    """Return a Whisper encoder's weights by their names in the tower.

    Raises:
        ValueError: its positions are not the sinusoids that the tower computes.
    """
    weights = {}
    for saved in files.file_of:
        _, encoder, inner = saved.rpartition("encoder.") if "decoder." not in saved else ("", "", "")
        if encoder:
            weights[re.sub("^layer_norm", "ln_post", inner)] = files.read(saved).float()
    positions = weights.pop("embed_positions.weight")
    expected = SinusoidsPositionEmbedding(*positions.shape).positional_embedding
    if (difference := (positions - expected).abs().max().item()) > POSITION_TOLERANCE:
        raise ValueError(f"{name}: its encoder's positions are no sinusoids (they differ by {difference:.2g})")
    return weights


def copy_last_layer(weights: dict[str, Tensor], layers: int, copies: int) -> dict[str, Tensor]:
    """Return further layers for a tower: its last one, whose two outputs are zero at first, so nothing changes."""
    prefix = f"layers.{layers - 1}."
    last = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    return {
        f"layers.{layers + i}.{name}": torch.zeros_like(weight) if name.startswith(OUTPUTS) else weight.clone()
        for i in range(copies)
        for name, weight in last.items()
    }


def fill_layout(config: Qwen2_5OmniThinkerConfig, text_name: str, tower: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return every weight of a saved thinker, by its name there.

    Raises:
        ValueError: the text LLM lacks a weight of the layout, or has others.
    """
    files = SafetensorsFiles.from_pretrained(text_name)
    unread = set(files.file_of)
    state: dict[str, Tensor] = {}
    shapes = {name: weight.shape for name, weight in Qwen2_5OmniStudent.make_empty_model(config).named_parameters()}
    for name, shape in shapes.items():
        saved = layouts.to_saved_name(name)
        if name.startswith(TOWER):
            state[saved] = tower[name.removeprefix(TOWER)].to(config.dtype)
        elif saved in unread:
            unread.remove(saved)
            state[saved] = grow_rows(files.read(saved), shape[0])
        elif name.startswith(UNFED) or name.endswith("_proj.bias"):
            state[saved] = torch.zeros(shape, dtype=config.dtype)
        if saved in state and state[saved].shape != shape:
            raise ValueError(f"{saved} is {tuple(state[saved].shape)} in {text_name}, and {tuple(shape)} in the layout")
    needed = {layouts.to_saved_name(name) for name in shapes} - ({HEAD} if config.tie_word_embeddings else set())
    lacking = sorted(needed - state.keys())
    if lacking or unread - {HEAD}:
        raise ValueError(
            f"{text_name} is not like a Llama or a Qwen2: "
            f"lacking {', '.join(lacking[:3]) or 'nothing'}, unknown {', '.join(sorted(unread)[:3]) or 'nothing'}"
        )
    return state


def grow_rows(weight: Tensor, rows: int) -> Tensor:
    """Return an embedding or head with further rows, each the mean of the others; other weights as they are."""
    missing = rows - weight.shape[0]
    if weight.ndim != 2 or missing <= 0:
        return weight
    return torch.cat([weight, weight.float().mean(0, keepdim=True).to(weight.dtype).expand(missing, -1)])
