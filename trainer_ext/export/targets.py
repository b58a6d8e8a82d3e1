"""A trained student as others load it: a thinker, a full Omni that still speaks, or an adapter under other names.

Base weights go through memory one by one; a folder is written aside and renamed, so that it is whole or not there.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME, load_peft_weights
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles, rewrite_shard
from trainer_ext.export.merge import TrainedWeights
from trainer_ext.students.qwen2_5_omni_names import FULL_MODEL, to_memory_name

THINKER_CLASS = "Qwen2_5OmniThinkerForConditionalGeneration"
PEFT_PREFIX = "base_model.model."
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what its --max-lora-rank takes


class Changes:
    """Applies trained weights, and knows afterwards whether all of them were used and any of them did something."""

    def __init__(self, trained: TrainedWeights, source: str) -> None:
        self.trained = trained
        self.source = source
        self.waiting = set(trained.names)
        self.acted = False

    def of(self, base: SafetensorsFiles, on_disk: str) -> Tensor | None:
        """The trained weight in place of one of the base's; None for one that was not trained."""
        name = to_memory_name(on_disk)
        if name not in self.trained.names:
            return None
        self.waiting.discard(name)
        before = base.read(on_disk)
        after = self.trained.apply(name, before)
        self.acted = self.acted or not torch.equal(after, before)
        return after

    def check(self) -> None:
        """
        Raises:
            ValueError: the base lacks what was trained, or no weight came out other than it was.
        """
        if self.waiting:
            named = ", ".join(sorted(self.waiting)[:3])
            raise ValueError(
                f"the base has no weight for {len(self.waiting)} of {self.source}'s: {named}; is it another model's?"
            )
        if not self.acted:
            named = ", ".join(sorted(self.trained.names)[:3])
            raise ValueError(
                f"{self.source} changes nothing: all {len(self.trained.names)} weights that it trains ({named}, ...) "
                "are as they were before"
            )


def export_thinker(
    changes: Changes,
    base: SafetensorsFiles,
    family: Any,
    output: Path,
    add_card: Callable[[Path], None],
) -> None:
    """A thinker of its own, for `Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained`."""
    parts = [
        (file, thinker)
        for file, names in base.files.items()
        if (thinker := [name for name in names if to_memory_name(name) is not None])
    ]
    with atomic_folder(output, sum(file.stat().st_size for file, _ in parts)) as folder:
        weight_map: dict[str, str] = {}
        total_size = 0
        for number, (file, names) in enumerate(tqdm(parts, unit="shard"), start=1):
            shard = name_shard(number, len(parts))
            renamed = {name: name.removeprefix(FULL_MODEL) for name in names}
            total_size += rewrite_shard(
                file, folder / shard, renamed, functools.partial(changes.of, base)
            )
            weight_map |= dict.fromkeys(renamed.values(), shard)
        changes.check()
        if len(parts) > 1:
            write_json(
                folder / SAFE_WEIGHTS_INDEX_NAME,
                {"metadata": {"total_size": total_size}, "weight_map": weight_map},
            )
        family.config.architectures = [THINKER_CLASS]
        family.config.save_pretrained(folder)
        GenerationConfig(
            eos_token_id=family.eos_token_id, pad_token_id=family.tokenizer.pad_token_id
        ).save_pretrained(folder)
        family.save_pretrained(str(folder))
        add_card(folder)


def export_omni(
    changes: Changes, base_folder: Path, output: Path, add_card: Callable[[Path], None]
) -> None:
    """A full model that still speaks: every file of the original, the thinker's weights replaced.

    Raises:
        ValueError: the base is a thinker alone, which has no voice to carry over.
    """
    base = SafetensorsFiles.from_pretrained(str(base_folder))
    if all(to_memory_name(name) is not None for name in base.file_of):
        raise ValueError(
            f"{base_folder} is a thinker without talker and token2wav: name the full model it came from by base"
        )
    files = list_files(base_folder)
    with atomic_folder(output, sum(file.stat().st_size for file in files)) as folder:
        for file in tqdm(files, unit="file"):
            copy = folder / file.relative_to(base_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            names = base.files.get(file, [])
            if any(to_memory_name(name) in changes.trained.names for name in names):
                renamed = {name: name for name in names}
                rewrite_shard(file, copy, renamed, functools.partial(changes.of, base))
            else:
                shutil.copyfile(file, copy)
        changes.check()
        add_card(folder)


def export_adapter(
    adapter: str,
    base: str,
    rename: Callable[[str], str],
    output: Path,
    add_card: Callable[[Path], None],
    revision: str | None = None,
) -> None:
    """The adapter with its modules renamed, for a model that calls them otherwise.

    Raises:
        ValueError: it changes nothing, or its ranks or alphas go by patterns that are anchored to the names it has
            now.
    """
    config = PeftConfig.from_pretrained(adapter, revision=revision)
    if anchored := [
        key for key in {**config.rank_pattern, **config.alpha_pattern} if key[0] == "^"
    ]:
        raise ValueError(
            f"{adapter} has ranks or alphas for {anchored[0]}, a pattern that would not match the new names: export a "
            "merged model instead"
        )
    weights = load_peft_weights(adapter, device="cpu", revision=revision)
    if not any(tensor.any() for key, tensor in weights.items() if ".lora_A" not in key):
        raise ValueError(f"{adapter} changes nothing: its weights are as before training")
    renamed = {
        PEFT_PREFIX + rename(key.removeprefix(PEFT_PREFIX)): tensor
        for key, tensor in weights.items()
    }
    with atomic_folder(output, sum(tensor.nbytes for tensor in weights.values())) as folder:
        save_file(renamed, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        config.base_model_name_or_path = base
        config.target_modules = sorted({name_module(key) for key in renamed})
        config.auto_mapping = None
        config.inference_mode = True
        config.save_pretrained(folder)
        add_card(folder)


def choose_vllm_rank(adapter: str, revision: str | None = None) -> int:
    """The least `--max-lora-rank` that serves this adapter.

    Raises:
        ValueError: vLLM's loader would refuse it (vllm/lora/peft_helper.py), whatever the rank.
    """
    config = PeftConfig.from_pretrained(adapter, revision=revision)
    rank = config.r
    for refused, present in {
        "DoRA": config.use_dora,
        "modules_to_save": bool(config.modules_to_save),
        "biases": config.bias != "none" or config.lora_bias,
        "ranks or alphas by pattern": bool(config.rank_pattern or config.alpha_pattern),
        f"rank {rank}": rank > VLLM_RANKS[-1],
    }.items():
        if present:
            raise ValueError(
                f"vLLM does not serve adapters with {refused}: export a merged model instead"
            )
    return next(allowed for allowed in VLLM_RANKS if allowed >= rank)


def name_module(key: str) -> str:
    """The module that a key of an adapter belongs to."""
    return key.removeprefix(PEFT_PREFIX).partition(".lora_")[0]


def name_shard(number: int, count: int) -> str:
    """As transformers names the shards of a checkpoint."""
    if count == 1:
        return SAFE_WEIGHTS_NAME
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def list_files(folder: Path) -> list[Path]:
    """The files of a checkpoint, without what download tools and git keep beside them."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not {".cache", ".git"} & set(file.relative_to(folder).parts)
    ]


def download_snapshot(name_or_path: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint with every one of its files, from the Hub unless it is one."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    return Path(snapshot_download(name_or_path, revision=revision))


@contextmanager
def atomic_folder(output: Path, size_bytes: int) -> Iterator[Path]:
    """A folder to write into that becomes `output` by one rename, or disappears.

    Raises:
        ValueError: `output` is there already, or the disk has no room for so many bytes.
    """
    if output.exists():
        raise ValueError(f"{output} is there already: remove it, or name another output_dir")
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if free < size_bytes:
        raise ValueError(
            f"{output} needs {size_bytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free there"
        )
    folder = output.with_name(f"{output.name}.{os.getpid()}.partial")
    folder.mkdir()
    try:
        yield folder
        folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(file: Path, content: Any) -> None:
    """Indented, as the libraries write it."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
