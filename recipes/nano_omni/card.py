"""The model card of a nano-Omni."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from data_builders.hub.contents import Contents
from data_builders.hub.folders import repository_name
from data_builders.hub.ids import public_name
from data_builders.storage.atomic import write_atomic
from trainer_ext.evaluation.tables import write_markdown
from trainer_ext.students.qwen2_5_omni import Qwen2_5OmniStudent

TEMPLATE = Path(__file__).with_name("card_template.md")


def write_card(
    folder: Path, text: str, encoder: str, datasets: Sequence[str], rows: int, stages: Mapping[str, str],
    report: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write README.md into the folder of the last stage.

    Args:
        rows: of training.
        stages: stage -> its figures in a line.
        report: of the check, without adapters.
    """
    text, encoder = public_name(text), public_name(encoder)
    data = ModelCardData(
        base_model=[name for name in (text, encoder) if "/" in name] or None,
        library_name="transformers",
        pipeline_tag="audio-text-to-text",
        tags=["speech", "nano-omni", "cross-modal-distillation"],
        **Contents("thinker", text).to_metadata(),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=repository_name(folder.parent),
        text=text,
        encoder=encoder,
        datasets=", ".join(public_name(name) for name in datasets),
        rows=f"{rows:,}",
        stages=stages,
        scores=write_markdown(report),
        model_class=Qwen2_5OmniStudent.model_class,
    )
    write_atomic(folder / "README.md", str(card).encode())
