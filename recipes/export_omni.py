"""Take a trained student elsewhere: merged, as a full Omni that still speaks, or as an adapter under other names.

    adapter or full fine-tune + base weights -> weight by weight -> a folder that others load

    python recipes/export_omni.py --trained outputs/omni7b_qlora --target omni --output_dir outputs/omni7b_speaking

    --target thinker        one model, no adapter: Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained
    --target omni           the full model, talker and voices unchanged: Qwen2_5OmniForConditionalGeneration
    --target omni_adapter   the adapter for the full model: PeftModel.from_pretrained(full_model, ...)
    --target vllm_adapter   the adapter for `vllm serve <base> --enable-lora`

Memory: a weight at a time, whatever the model's size. What was trained over a 4-bit base is merged into the whole one.
"""

from dataclasses import dataclass, field
from pathlib import Path

from trainer_ext.checkpoints.safetensors_files import SafetensorsFiles
from trainer_ext.export.merge import is_adapter, load_trained, read_base_name
from trainer_ext.export.targets import (
    Changes,
    choose_vllm_rank,
    download_snapshot,
    export_adapter,
    export_omni,
    export_thinker,
)
from trainer_ext.hub.model_card import write_export_card
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.qwen2_5_omni_names import to_full_model_name, to_vllm_name
from trainer_ext.students.registry import load_student_family

RENAMES = {"omni_adapter": to_full_model_name, "vllm_adapter": to_vllm_name}
TARGETS = ("thinker", "omni", *RENAMES)


@dataclass
class ExportArguments:
    """What to export, and as what."""

    trained: str = field(metadata={"help": "Adapter or full fine-tune: a folder or a Hub id."})
    target: str = field(metadata={"help": f"One of {', '.join(TARGETS)}.", "choices": TARGETS})
    output_dir: str = field(metadata={"help": "The folder to make."})
    trained_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of `trained`."}
    )
    base: str | None = field(
        default=None,
        metadata={
            "help": "The model it was trained from: a folder or a Hub id. Unset: what the adapter names."
        },
    )
    base_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the base."}
    )


def main() -> None:
    parser = RecipeParser((ExportArguments,))
    (arguments,) = parser.parse_args_and_config()
    keep_libraries_quiet()
    try:
        export(arguments)
    except (ValueError, OSError) as error:  # OSError: no such model
        parser.error(str(error))


def export(arguments: ExportArguments) -> None:
    """One target; what cannot be exported is refused before anything is written."""
    trained, output = arguments.trained, Path(arguments.output_dir)
    named, named_revision = read_base_name(trained, arguments.trained_revision)
    base, revision = arguments.base or named, arguments.base_revision or named_revision
    if base is None:
        raise ValueError(
            f"{trained} is no adapter and names no base: name the model it was trained from by --base"
        )
    rename = RENAMES.get(arguments.target)  # of an adapter
    if rename is not None and not is_adapter(trained, arguments.trained_revision):
        raise ValueError(f"{trained} is no adapter: export it by --target thinker or omni")
    rank = None
    if arguments.target == "vllm_adapter":
        rank = choose_vllm_rank(trained, arguments.trained_revision)
    family = load_student_family(base, revision)
    # Looks at an adapter's keys, whatever becomes of it.
    changes = Changes(load_trained(trained, family, arguments.trained_revision), trained)

    def add_card(folder: Path) -> None:
        write_export_card(folder, arguments.target, output.name, trained, base, rank)

    if rename is not None:
        export_adapter(trained, base, rename, output, add_card, arguments.trained_revision)
    elif arguments.target == "omni":
        export_omni(changes, download_snapshot(base, revision), output, add_card)
    else:
        export_thinker(
            changes, SafetensorsFiles.from_pretrained(base, revision), family, output, add_card
        )
    print(f"{arguments.target} of {trained} in {output}")


if __name__ == "__main__":
    main()
