"""A full Qwen2.5-Omni in the published layout, small: the tiny lab's student as its thinker, a talker that babbles.

What a published repository has is here under the same names: sharded safetensors with their index, shards that thinker
and talker share, `spk_dict.pt`, the chat template in chat_template.json.
"""

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from tests.support.lab import LAB, ROOT

STUDENT = LAB / "student"
# Every weight of Qwen/Qwen2.5-Omni-7B and -3B, from their model.safetensors.index.json; N is any number.
PUBLISHED_NAMES = (ROOT / "tests" / "support" / "published_names.txt").read_text().split()
NUMBERED = re.compile(r"\.(layers|blocks|transformer_blocks|resblocks|ups|activations|convs1|convs2)\.\d+")

TALKER = dict(
    vocab_size=64,
    tts_codec_pad_token_id=60,
    tts_codec_start_token_id=61,
    tts_codec_end_token_id=62,
    tts_codec_mask_token_id=63,
    tts_text_start_token_id=10,
    tts_text_end_token_id=11,
    tts_text_pad_token_id=12,
    audio_token_index=3,
    audio_start_token_id=4,
    audio_end_token_id=5,
    vision_start_token_id=6,
    vision_end_token_id=7,
    image_token_index=8,
    video_token_index=9,
    embedding_size=128,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    rope_parameters=dict(mrope_section=[4, 2, 2], rope_theta=1e6, rope_type="default"),
)
DIT = dict(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    head_dim=16,
    emb_dim=32,
    num_embeds=65,
    mel_dim=80,
    enc_emb_dim=16,
    enc_dim=16,
    enc_channels=[32, 32, 32, 32, 96],
    enc_attention_channels=8,
    enc_res2net_scale=2,
    enc_se_channels=8,
    look_ahead_layers=[1],
    look_backward_layers=[0],
)
BIGVGAN = dict(mel_dim=80, upsample_initial_channel=64)


def save_tiny_omni(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the checkpoint; talker and token2wav are random, token2wav is float32 as in the published ones."""
    thinker = Thinker.from_pretrained(STUDENT, dtype=dtype)
    config = Qwen2_5OmniConfig(
        thinker_config=AutoConfig.from_pretrained(STUDENT).to_dict(),
        talker_config=TALKER,
        token2wav_config=dict(dit_config=DIT, bigvgan_config=BIGVGAN),
    )
    torch.manual_seed(0)
    model = Qwen2_5OmniForConditionalGeneration(config)
    model.thinker.load_state_dict(thinker.state_dict())
    model.thinker.to(dtype)
    model.talker.to(dtype)
    model.save_pretrained(folder, max_shard_size="3MB")

    written = json.loads((folder / "config.json").read_text())
    written["architectures"] = ["Qwen2_5OmniModel"]
    written["thinker_config"]["architectures"] = ["Qwen2OmniNaViTThinkerForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps(written, indent=2))
    add_inv_freq(folder)
    speaker = {"bos_token": 10, "cond": torch.randn(1, 16), "ref_mel": torch.randn(1, 40, 80)}
    torch.save({"Chelsie": speaker, "Ethan": {**speaker, "bos_token": 11}}, folder / "spk_dict.pt")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(STUDENT / name, folder / name)
    template = {"chat_template": (STUDENT / "chat_template.jinja").read_text()}
    (folder / "chat_template.json").write_text(json.dumps(template))
    (folder / "README.md").write_text("---\nlicense: other\n---\n\n# Tiny Omni\n")
    (folder / "LICENSE").write_text("The license of the original.\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    return folder


def add_inv_freq(folder: Path) -> None:
    """A buffer that the published checkpoints keep and transformers 5 no longer writes."""
    index_file = folder / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    last = folder / max(index["weight_map"].values())
    tensors = load_file(last)
    name = "token2wav.code2wav_dit_model.rotary_embed.inv_freq"
    tensors[name] = 1.0 / 10000 ** (torch.arange(0, 16, 2).float() / 16)
    save_file(tensors, last, metadata={"format": "pt"})
    index["weight_map"][name] = last.name
    index_file.write_text(json.dumps(index, indent=2))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, and a look that its index says where it is."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            tensors |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    return tensors


def number_names(names) -> set[str]:
    return {NUMBERED.sub(r".\1.N", name) for name in names}
