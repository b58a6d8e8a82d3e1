"""The card of an export."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from data_builders.hub.contents import Contents
from data_builders.hub.folders import local_id
from data_builders.hub.ids import public_name
from trainer_ext.students.base import ExportTarget

EXPORT_TEMPLATE = Path(__file__).with_name("export_card_template.md")


def write_export_card(
    folder: Path,
    name: str,
    target_name: str,
    target: ExportTarget,
    trained: str,
    base: str,
    max_lora_rank: int | None = None,
) -> None:
    """Write README.md into an export; the base's own, copied with a full model, becomes README_base.md.

    Args:
        name: of the export.
        target_name: of its form, which tells it from a run's own result.
    """
    card = folder / "README.md"
    if card.exists():
        card.rename(folder / "README_base.md")
    is_adapter = target.kind == "adapter"
    trained, base = public_name(trained), public_name(base)
    data = ModelCardData(
        base_model=base if "/" in base else None,
        base_model_relation=("adapter" if is_adapter else "finetune") if "/" in base else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=target.pipeline_tag,
        tags=["cross-modal-distillation", "speech", *(["lora"] if is_adapter else [])],
        **Contents(target_name, base).to_metadata(),
    )
    content = ModelCard.from_template(
        data,
        template_path=str(EXPORT_TEMPLATE),
        name=name,
        trained=trained,
        base=base,
        usage=target.usage.format(name=local_id(Path(name)), base=base, max_lora_rank=max_lora_rank),
        has_base_card=(folder / "README_base.md").exists(),
    )
    card.write_text(str(content), encoding="utf-8")
