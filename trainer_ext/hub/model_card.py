"""Model cards: of a run (what was trained from what, by which loss, and what it scored) and of an export."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments

TEMPLATE = Path(__file__).with_name("model_card_template.md")
EXPORT_TEMPLATE = Path(__file__).with_name("export_card_template.md")


def write_card(
    folder: Path,
    model: ModelArguments,
    training: CrossModalDistillConfig,
    dataset_name: str,
    report: dict[str, Any] | None,
) -> None:
    """Write README.md into `folder`; `report` is what `write_report` returned, None for a run without scores."""
    data = ModelCardData(
        base_model=model.model_name_or_path,
        library_name="peft" if model.use_peft else "transformers",
        pipeline_tag="audio-text-to-text",
        tags=["trl", "cross-modal-distillation", "speech", *(["lora"] if model.use_peft else [])],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=folder.name,
        model=model,
        training=training,
        dataset_name=dataset_name,
        report=report,
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def write_export_card(
    folder: Path, target: str, name: str, trained: str, base: str, vllm_rank: int | None
) -> None:
    """Write README.md into an export; the base's own, carried over with a full model, becomes README_base.md."""
    card = folder / "README.md"
    if card.exists():
        card.rename(folder / "README_base.md")
    adapter = target.endswith("adapter")
    data = ModelCardData(
        base_model=base,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="any-to-any" if target == "omni" else "audio-text-to-text",
        tags=["cross-modal-distillation", "speech", *(["lora"] if adapter else [])],
    )
    content = ModelCard.from_template(
        data,
        template_path=str(EXPORT_TEMPLATE),
        name=name,
        target=target,
        trained=trained,
        base=base,
        vllm_rank=vllm_rank,
    )
    card.write_text(str(content), encoding="utf-8")
