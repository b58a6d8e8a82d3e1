"""The card of a data set of sounds."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from data_builders.hub.contents import Contents
from data_builders.hub.folders import DATASET, local_id
from data_builders.hub.ids import public_name

TEMPLATE = Path(__file__).with_name("card_template.md")


def write_sound_card(
    folder: Path,
    target: Path,
    source: str,
    revision: str | None,
    teacher: str | None,
    rows: Mapping[str, int],
    counts: Mapping[str, int],
    license_name: str | None,
) -> None:
    """Write README.md into a folder that will be `target`.

    Args:
        source: the data set of questions and sounds, a Hub id or a path.
        teacher: the model that answered; None for the source's own answers.
        rows: split -> rows.
        counts: outcome -> questions.
    """
    name = public_name(source)
    data = DatasetCardData(
        license=license_name or "other",
        task_categories=["question-answering", "audio-classification"],
        tags=["audio", "audio-question-answering", "cross-modal-distillation"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows],
            }
        ],
        **Contents(DATASET.name, name).to_metadata(),
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=target.name,
        repository=local_id(target),
        source=name,
        revision=revision,
        teacher=teacher,
        rows=rows,
        counts=counts,
        license=license_name,
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")
