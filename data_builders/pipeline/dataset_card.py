"""The data set's card and histograms, from the facts of its build."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData

from data_builders.arguments import BuildSettings
from data_builders.hub.contents import Contents
from data_builders.hub.folders import DATASET, local_id
from data_builders.questions.read import is_file

TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
HISTOGRAMS = {
    "speech_seconds": ("seconds of speech", np.arange(0, 30.5, 0.5)),
    "wer": ("word error rate", np.arange(0, 1.05, 0.05)),
    "noisy_wer": ("word error rate, noisy", np.arange(0, 1.05, 0.05)),
    "similarity": ("similarity of transcript and question", np.arange(0, 1.05, 0.05)),
}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_dataset_card(
    folder: Path,
    settings: BuildSettings,
    teacher: str | None,
    rows: dict[str, int],
    counts: dict[str, dict[str, int]],
    figures: dict[str, np.ndarray],
) -> None:
    """Write README.md and images/*.png into the data set's folder.

    Args:
        rows: split -> kept rows.
        counts: stage -> outcome -> rows.
        figures: column -> its values (n,) of all kept rows, at least one each.
    """
    for column, values in figures.items():
        plot_histogram(folder / "images" / f"{column}.png", values, *HISTOGRAMS[column])
    licenses = dict(entry.split("=", 1) for entry in settings.pipeline.licenses)
    total = sum(rows.values())
    assert settings.questions.questions is not None
    data = DatasetCardData(
        language=settings.questions.language,
        license="other" if len(set(licenses.values())) != 1 else next(iter(licenses.values())),
        task_categories=["question-answering", "automatic-speech-recognition"],
        tags=["speech", "spoken-questions", "cross-modal-distillation"],
        size_categories=next((name for limit, name in SIZES if total < limit), "n>1M"),
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in sorted(rows)],
            }
        ],
        **describe_dataset(settings.questions.questions).to_metadata(),
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=Path(settings.pipeline.output_dir).name,
        repository=local_id(Path(settings.pipeline.output_dir)),
        source=source_label(settings.questions.questions),
        questions=settings.questions,
        answers=settings.answers,
        speech=settings.speech,
        verification=settings.verification,
        teacher=teacher,
        rows=rows,
        counts=counts,
        hours=float(np.sum(figures.get("speech_seconds", np.zeros(1)))) / 3600,
        means={column: float(np.mean(values)) for column, values in figures.items()},
        pictures=list(figures),
        licenses=licenses,
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def describe_dataset(questions: str) -> Contents:
    """Return what a repository with a data set of these questions holds."""
    return Contents(DATASET.name, source_label(questions))


def source_label(questions: str) -> str:
    """Return the questions' source without the folders of this machine."""
    return Path(questions).name if is_file(questions) else questions


def plot_histogram(file: Path, values: np.ndarray, title: str, edges: np.ndarray) -> None:
    """Write a PNG of values (n,); values beyond the edges count in the outer bins."""
    file.parent.mkdir(exist_ok=True)
    figure, axes = plt.subplots(figsize=(5, 2.5), layout="constrained")
    axes.hist(np.clip(values, edges[0], edges[-1]), bins=edges, color="#4477aa")
    axes.set(xlabel=title, ylabel="rows")
    figure.savefig(file, dpi=100, metadata={"Software": None})
    plt.close(figure)
