"""Write a trained student in one of its family's forms: merged, as the full model, or as a renamed adapter.

Base weights are read one by one. The folder appears by a rename, so it is complete or not there.
"""

import functools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftType
from peft.utils import SAFETENSORS_WEIGHTS_NAME, load_peft_weights
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from data_builders.storage.atomic import atomic_folder
from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles, rewrite_file
from trainer_ext.export.merge import TrainedWeights
from trainer_ext.loading.adapter_files import PEFT_PREFIX, module_of, read_adapter_config
from trainer_ext.students.base import ExportTarget, StudentFamily

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values of --max-lora-rank

AddCard = Callable[[Path], None]


class WeightPatch:
    """Replaces base weights by trained ones, and records whether all were used and any made a difference.

    Args:
        to_memory_name: the family's; checkpoint name -> name in memory.
        source: name of the trained weights, for messages.
        dtype: precision of the new weights; None for the base's own.
    """

    def __init__(
        self,
        trained: TrainedWeights,
        to_memory_name: Callable[[str], str | None],
        source: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.trained, self.to_memory_name, self.source, self.dtype = trained, to_memory_name, source, dtype
        self.unused = set(trained.names)
        self.has_effect = False
        self._changed, self._lost = 0.0, 0.0  # sums of squares

    @property
    def rounded_away(self) -> float:
        """Share of the change by training that the weights' precision lost: the norm of the error over that of the
        change.
        """
        return math.sqrt(self._lost / self._changed) if self._changed else 0.0

    def changes(self, checkpoint_name: str) -> bool:
        """Tell whether a weight of the base was trained."""
        return self.to_memory_name(checkpoint_name) in self.trained.names

    def apply(self, base: SafetensorsFiles, checkpoint_name: str) -> Tensor | None:
        """Return the trained weight in place of one of the base's; None for one that was not trained."""
        name = self.to_memory_name(checkpoint_name)
        if name is None or name not in self.trained.names:
            return None
        self.unused.discard(name)
        before = base.read(checkpoint_name)
        trained = self.trained.apply(name, before)
        after = trained.to(self.dtype or before.dtype)
        self.has_effect = self.has_effect or not torch.equal(after, before.to(after.dtype))
        self._changed += float((trained.float() - before.float()).square().sum())
        self._lost += float((trained.float() - after.float()).square().sum())
        return after

    def check(self) -> None:
        """Raise ValueError if a trained weight was not used, or no weight changed."""
        if self.unused:
            named = ", ".join(sorted(self.unused)[:3])
            raise ValueError(
                f"the base has no weight for {len(self.unused)} of {self.source}'s: {named}; is it another model's?"
            )
        if not self.has_effect:
            named = ", ".join(sorted(self.trained.names)[:3])
            raise ValueError(
                f"{self.source} changes nothing: all {len(self.trained.names)} weights that it trains ({named}, ...) "
                "are as they were before"
            )


def export_student(
    patch: WeightPatch,
    target: ExportTarget,
    base: SafetensorsFiles,
    family: StudentFamily,
    output: Path,
    add_card: AddCard,
) -> None:
    """Write the student alone with merged weights, for its transformers class."""
    parts = [
        (file, student)
        for file, names in base.files.items()
        if (student := [name for name in names if family.to_memory_name(name) is not None])
    ]
    with new_folder(output, sum(file.stat().st_size for file, _ in parts)) as folder:
        weight_map: dict[str, str] = {}
        total_size = 0
        for number, (file, names) in enumerate(tqdm(parts, unit="file"), start=1):
            weights_file = weights_file_name(number, len(parts))
            renamed = {name: target.rename(name) for name in names}
            change = functools.partial(patch.apply, base)
            total_size += rewrite_file(file, folder / weights_file, renamed, change, patch.dtype)
            weight_map |= dict.fromkeys(renamed.values(), weights_file)
        patch.check()
        if len(parts) > 1:
            index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
            (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        family.config.architectures = [target.architecture]
        if patch.dtype is not None:
            set_dtype(family.config, patch.dtype)
        family.config.save_pretrained(folder)
        GenerationConfig(eos_token_id=family.eos_token_id, pad_token_id=family.tokenizer.pad_token_id).save_pretrained(
            folder
        )
        family.save_pretrained(str(folder))
        add_card(folder)


def set_dtype(config: PretrainedConfig, dtype: torch.dtype) -> None:
    """Write the precision into a config and those of its parts."""
    config.dtype = dtype
    for part in vars(config).values():
        if isinstance(part, PretrainedConfig):
            set_dtype(part, dtype)


def export_full_model(patch: WeightPatch, base_folder: Path, output: Path, add_card: AddCard) -> None:
    """Write every file of the original full model, the student's weights replaced.

    Raises:
        ValueError: the base is the student alone, without the parts that a full model adds.
    """
    base = SafetensorsFiles.from_pretrained(str(base_folder))
    if all(patch.to_memory_name(name) is not None for name in base.file_of):
        raise ValueError(
            f"{base_folder} has the student's weights alone: name the full model that they came from by base"
        )
    files = list_files(base_folder)
    with new_folder(output, sum(file.stat().st_size for file in files)) as folder:
        for file in tqdm(files, unit="file"):
            copy = folder / file.relative_to(base_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            names = base.files.get(file, [])
            if any(map(patch.changes, names)):
                renamed = {name: name for name in names}
                rewrite_file(file, copy, renamed, functools.partial(patch.apply, base))
            else:
                shutil.copyfile(file, copy)
        patch.check()
        add_card(folder)


def export_adapter(
    adapter: str,
    base: str,
    target: ExportTarget,
    output: Path,
    add_card: AddCard,
    revision: str | None = None,
) -> None:
    """Write the adapter with renamed modules.

    Raises:
        ValueError: it changes nothing, or its ranks or alphas go by patterns that are anchored to the present names, or
            it trains whole modules, which PEFT would look for under their present names.
    """
    config = read_adapter_config(adapter, revision)
    if config.modules_to_save:
        raise ValueError(
            f"{adapter} trains whole modules ({', '.join(config.modules_to_save)}), which PEFT would not find under "
            "new names: export a merged model instead"
        )
    if anchored := [key for key in {**config.rank_pattern, **config.alpha_pattern} if key[0] == "^"]:
        raise ValueError(
            f"{adapter} has ranks or alphas for {anchored[0]}, a pattern that would not match the new names: export a "
            "merged model instead"
        )
    weights = load_peft_weights(adapter, device="cpu", revision=revision)
    if not any(tensor.any() for key, tensor in weights.items() if ".lora_A" not in key):
        raise ValueError(f"{adapter} changes nothing: its weights are as before training")
    if broken := [key for key, tensor in weights.items() if not bool(tensor.isfinite().all())]:
        raise ValueError(f"{adapter} has values that are not finite ({broken[0]}): use an earlier checkpoint")
    renamed = {PEFT_PREFIX + target.rename(key.removeprefix(PEFT_PREFIX)): tensor for key, tensor in weights.items()}
    with new_folder(output, sum(tensor.nbytes for tensor in weights.values())) as folder:
        save_file(renamed, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        config.base_model_name_or_path = base
        config.target_modules = sorted({module_of(key) for key in renamed})
        config.auto_mapping = None
        config.inference_mode = True
        config.save_pretrained(folder)
        add_card(folder)


def choose_vllm_rank(config: PeftConfig) -> int:
    """Return the least `--max-lora-rank` that serves an adapter.

    Raises:
        ValueError: vLLM's loader would refuse it (vllm/lora/peft_helper.py), whatever the rank.
    """
    if config.peft_type != PeftType.LORA:
        raise ValueError(f"vLLM serves LoRA alone, and this adapter is of type {config.peft_type.value}")
    rank = config.r
    for refused, present in {
        "DoRA": config.use_dora,
        "modules_to_save": bool(config.modules_to_save),
        "biases": config.bias != "none" or config.lora_bias,
        "ranks or alphas by pattern": bool(config.rank_pattern or config.alpha_pattern),
        f"rank {rank}": rank > VLLM_RANKS[-1],
    }.items():
        if present:
            raise ValueError(f"vLLM does not serve adapters with {refused}: export a merged model instead")
    return next(allowed for allowed in VLLM_RANKS if allowed >= rank)


def weights_file_name(number: int, count: int) -> str:
    """Return the name of a weights file as transformers writes it."""
    return SAFE_WEIGHTS_NAME if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def list_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint without those of download tools and git."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not {".cache", ".git"} & set(file.relative_to(folder).parts)
    ]


def download_snapshot(name_or_path: str, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint with all of its files, downloaded unless it is a folder."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    return Path(snapshot_download(name_or_path, revision=revision))


@contextmanager
def new_folder(output: Path, size_bytes: int) -> Iterator[Path]:
    """Yield a temporary folder that becomes `output`.

    Raises:
        ValueError: `output` exists, or the disk has too little space for so many bytes.
    """
    if output.exists():
        raise ValueError(f"{output} exists already: remove it, or name another output_dir")
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if free < size_bytes:
        raise ValueError(f"{output} needs {size_bytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free there")
    with atomic_folder(output) as folder:
        yield folder
