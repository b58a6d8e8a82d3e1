"""The model card of a run: what was trained from what, by which loss, and what it scored."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments

TEMPLATE = Path(__file__).with_name("card_template.md")


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
