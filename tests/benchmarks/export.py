"""Memory of an export beside the sizes of the model and of its largest file: random weights on disk.

python tests/benchmarks/export.py            # a full Omni of 2 GB in shards of 0.25 GB, in a temporary folder
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file

from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.registry import load_student_family

ROOT = Path(__file__).parents[2]
LAB = ROOT / "recipes" / "tiny_lab" / "student"
SHAPE = (2048, 12, 65_536)  # hidden size, layers, vocabulary
SMOKE_SHAPE = (256, 2, 1024)
MEASURED = """
import runpy, sys
import torch
from trainer_ext.memory.callback import measure_peak
import recipes.export_omni

if len(sys.argv) > 1:
    sys.argv = ["export_omni.py", *sys.argv[1:]]
    runpy.run_path("recipes/export_omni.py", run_name="__main__")
print(measure_peak(torch.device("cpu")))
"""


def write_model(folder: Path, shard_bytes: int, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Write a thinker of those sizes and other weights; returns the bytes in all and of the largest shard."""
    hidden, layers, vocab_size = shape
    family = load_student_family(str(LAB))
    text = family.config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, 4 * hidden, layers
    text.layer_types = ["full_attention"] * layers
    text.num_attention_heads, text.num_key_value_heads, text.vocab_size = hidden // 128, 2, vocab_size
    text.rope_parameters["mrope_section"] = [16, 24, 24]
    family.config.audio_config.output_dim = hidden
    folder.mkdir()
    family.save_pretrained(str(folder))
    model = family.make_empty_model(family.config, torch.bfloat16)
    config = {"model_type": "qwen2_5_omni", "thinker_config": family.config.to_dict()}
    (folder / "config.json").write_text(json.dumps(config))
    names = {family.to_checkpoint_name(name): p.shape for name, p in model.named_parameters()}
    names |= {f"token2wav.{number}": (1024, 65_536) for number in range(2)}
    shards: list[dict] = [{}]
    for name, shape in names.items():
        if sum(tensor.nbytes for tensor in shards[-1].values()) > shard_bytes:
            shards.append({})
        shards[-1][name] = torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)
    weight_map = {}
    for number, tensors in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    adapter = LoraConfig(
        target_modules=family.lora_target_modules, r=16, init_lora_weights=False,
        base_model_name_or_path=str(folder),
    )  # fmt: skip
    PeftModel(model, adapter).save_pretrained(str(folder.with_name("adapter")))
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    return sum(sizes), max(sizes)


def measure(*words: str) -> int:
    """Return the peak bytes of a process that exports, or without arguments only imports."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard_gb", type=float, default=0.25)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes; figures mean nothing")
    arguments = parser.parse_args()
    keep_libraries_quiet()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        whole, shard = write_model(base, int(arguments.shard_gb * 1e9), SMOKE_SHAPE if arguments.smoke else SHAPE)
        libraries = measure()
        print(f"model {whole / 1e9:.2f} GB, largest shard {shard / 1e9:.2f} GB")
        print("| target | peak above the libraries, GB | of the largest shard | of the model |\n|---|---|---|---|")
        for target in ("thinker", "omni"):
            words = ["--trained", f"{folder}/adapter", "--target", target]
            taken = measure(*words, "--output_dir", f"{folder}/{target}") - libraries
            print(f"| {target} | {taken / 1e9:.2f} | {taken / shard:.2f} | {taken / whole:.2f} |")


if __name__ == "__main__":
    main()
