"""Model cards: of a run (its data, loss and scores) and of an export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from trainer_ext.arguments import CrossModalDistillConfig
from trainer_ext.students.base import ExportTarget, StudentArchitecture

TEMPLATE = Path(__file__).with_name("model_card_template.md")
EXPORT_TEMPLATE = Path(__file__).with_name("export_card_template.md")


@dataclass
class RunFacts:
    """Facts of a run that its training arguments do not hold.

    Attributes:
        report: the content of report.json; None for a run without scores.
        eval_results: its scores, for the card's model-index.
        repository: id on the Hub, for the snippets; None for a folder.
    """

    base_model: str
    use_peft: bool
    teacher_model: str | None = None
    dataset_name: str | None = None
    report: dict[str, Any] | None = None
    repository: str | None = None
    eval_results: tuple[EvalResult, ...] = ()


def write_model_card(
    folder: Path, facts: RunFacts, training: CrossModalDistillConfig, family: StudentArchitecture
) -> None:
    """Write README.md into a run's folder."""
    data = ModelCardData(
        base_model=facts.base_model,
        model_name=folder.name if facts.eval_results else None,
        eval_results=list(facts.eval_results) or None,
        library_name="peft" if facts.use_peft else "transformers",
        pipeline_tag="audio-text-to-text",
        tags=["trl", "cross-modal-distillation", "speech", *(["lora"] if facts.use_peft else [])],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=folder.name,
        source=facts.repository or str(folder),
        facts=facts,
        training=training,
        model_class=family.model_class,
        note=family.card_note,
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def write_export_card(
    folder: Path, name: str, target: ExportTarget, trained: str, base: str, max_lora_rank: int | None = None
) -> None:
    """Write README.md into an export; the base's own, copied with a full model, becomes README_base.md."""
    card = folder / "README.md"
    if card.exists():
        card.rename(folder / "README_base.md")
    is_adapter = target.kind == "adapter"
    data = ModelCardData(
        base_model=base,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=target.pipeline_tag,
        tags=["cross-modal-distillation", "speech", *(["lora"] if is_adapter else [])],
    )
    content = ModelCard.from_template(
        data,
        template_path=str(EXPORT_TEMPLATE),
        name=name,
        trained=trained,
        base=base,
        usage=target.usage.format(name=name, base=base, max_lora_rank=max_lora_rank),
        has_base_card=(folder / "README_base.md").exists(),
    )
    card.write_text(str(content), encoding="utf-8")
