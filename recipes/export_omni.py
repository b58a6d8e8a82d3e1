"""Export a trained student: merged, as a full Omni that still speaks, or as an adapter with other names.

    adapter or full fine-tune + base weights -> weight by weight -> a folder that others load

    python recipes/export_omni.py --trained outputs/omni7b_qlora --target omni --output_dir outputs/omni7b_speaking

    --target thinker        one model, no adapter: Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained
    --target omni           the full model, talker and voices unchanged: Qwen2_5OmniForConditionalGeneration
    --target omni_adapter   the adapter for the full model: PeftModel.from_pretrained(full_model, ...)
    --target vllm_adapter   the adapter for `vllm serve <base> --enable-lora`

Memory: one weight at a time, whatever the model's size. An adapter of a 4-bit base is merged into the unquantized one.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.hf_argparser import HfArg

from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles
from trainer_ext.command_line import run_command
from trainer_ext.export.merge import is_adapter, load_trained, read_base_name
from trainer_ext.export.targets import (
    WeightPatch,
    choose_vllm_rank,
    download_snapshot,
    export_adapter,
    export_full_model,
    export_student,
)
from trainer_ext.hub.export_card import write_export_card
from trainer_ext.loading.adapter_files import read_adapter_config
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.registry import load_student_family

NEGLIGIBLE = 0.01  # of the change by training


@dataclass
class ExportArguments:
    """The trained weights, and the form of the export."""

    trained: str = HfArg(help="Adapter or full fine-tune: a folder or a Hub id.")
    target: str = HfArg(help="Form of the export; Qwen2.5-Omni has thinker, omni, omni_adapter and vllm_adapter.")
    output_dir: str = HfArg(help="The folder to make.")
    trained_revision: str | None = HfArg(default=None, help="Branch, tag or commit of `trained`.")
    base: str | None = HfArg(
        default=None, help="The model it was trained from: a folder or a Hub id. Unset: the adapter's base model."
    )
    base_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the base.")
    dtype: str | None = HfArg(
        default=None, help="Precision of target thinker: float32 keeps all of what training changed. Unset: the base's."
    )

    def __post_init__(self) -> None:
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is float32, bfloat16 or float16, got {self.dtype!r}")


def main() -> None:
    parser = RecipeParser((ExportArguments,))
    (arguments,) = parser.parse_args_and_config()
    keep_libraries_quiet()
    export(arguments)


def export(arguments: ExportArguments) -> None:
    """Export to one target; what cannot be exported is refused before anything is written."""
    trained, output = arguments.trained, Path(arguments.output_dir)
    named, named_revision = read_base_name(trained, arguments.trained_revision)
    base, revision = arguments.base or named, arguments.base_revision or named_revision
    if base is None:
        raise ValueError(f"{trained} is no adapter and names no base: name the model it was trained from by --base")
    family = load_student_family(base, revision)
    if arguments.target not in family.export_targets:
        raise ValueError(f"target is one of {', '.join(family.export_targets)}, got {arguments.target!r}")
    target = family.export_targets[arguments.target]
    if target.kind == "adapter" and not is_adapter(trained, arguments.trained_revision):
        raise ValueError(f"{trained} is no adapter: export it by --target thinker or omni")
    if arguments.dtype is not None and target.kind != "student":
        raise ValueError(f"dtype is for merged students; target {arguments.target} keeps the precision of its files")
    rank = None
    if target.served_by_vllm:
        rank = choose_vllm_rank(read_adapter_config(trained, arguments.trained_revision))
    # Validates an adapter's keys for every target.
    weights = load_trained(trained, family, arguments.trained_revision)
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    patch = WeightPatch(weights, family.to_memory_name, trained, dtype)

    def add_card(folder: Path) -> None:
        write_export_card(folder, output.name, arguments.target, target, trained, base, rank)

    if target.kind == "adapter":
        export_adapter(trained, base, target, output, add_card, arguments.trained_revision)
    elif target.kind == "full_model":
        export_full_model(patch, download_snapshot(base, revision), output, add_card)
    else:
        files = SafetensorsFiles.from_pretrained(base, revision)
        export_student(patch, target, files, family, output, add_card)
    print(f"{arguments.target} of {trained} in {output}")
    if target.kind != "adapter":
        hint = "; --dtype float32 keeps it" if target.kind == "student" and patch.rounded_away > NEGLIGIBLE else ""
        print(f"lost to the precision of the weights: {patch.rounded_away:.1%} of what training changed{hint}")


if __name__ == "__main__":
    run_command(main)
