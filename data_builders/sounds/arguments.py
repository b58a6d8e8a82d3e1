"""Settings of a data set of questions about sounds."""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg

SOUND_COLUMNS = ("question", "audio", "reference", "system", "group", "id")


@dataclass(frozen=True)
class SoundDataArguments:
    """Questions about sounds, the student that answers them, and the finished data set."""

    dataset_name: str | None = HfArg(default=None, help="A file, a folder or a `datasets` id.")
    dataset_config: str | None = HfArg(default=None, help="Config of a `datasets` id.")
    dataset_revision: str | None = HfArg(default=None, help="Branch, tag or commit of a `datasets` id.")
    columns: list[str] = HfArg(
        default_factory=lambda: ["question=question", "audio=audio"],
        help="Its columns: question=QuestionText audio=audio reference=answer system=... group=... id=...",
    )
    train_split: str = HfArg(default="train", help="Split to train on.")
    test_split: str | None = HfArg(default=None, help="Split to hold out: asked before and after a training.")
    max_items: int | None = HfArg(default=None, help="Only the first items of every split.")
    model_name_or_path: str | None = HfArg(
        default=None, help="The student, as the training will begin with it. Unset: the source's answers alone."
    )
    model_revision: str = HfArg(default="main", help="Branch, tag or commit of the student.")
    dtype: str = HfArg(default="auto", help="Precision of its weights.")
    load_in_4bit: bool = HfArg(default=False, help="Load it in NF4.")
    batch_size: int = HfArg(default=16, help="Questions at a time; fewer of long ones.")
    max_new_tokens: int = HfArg(default=256, help="Longest answer; longer ones are left out.")
    output_dir: str = HfArg(default="outputs/data/sounds", help="The data set: parquet, card, manifest.")
    overwrite_output_dir: bool = HfArg(default=False, help="Replace another data set in `output_dir`.")
    cache_dir: str = HfArg(default="outputs/data", help="Folder of finished answers.")
    license: str | None = HfArg(default=None, help="License for the card, as the Hub names it.")

    def __post_init__(self) -> None:
        columns = {entry.partition("=")[0] for entry in self.columns}
        if not {"question", "audio"} <= columns:
            raise ValueError("columns: name those of the question and of its sound: question=... audio=...")
        if unknown := columns - set(SOUND_COLUMNS):
            raise ValueError(f"columns: {', '.join(sorted(unknown))} is none of {', '.join(SOUND_COLUMNS)}")
        if self.model_name_or_path is None and "reference" not in columns:
            raise ValueError("there are no answers: name model_name_or_path, or the column of answers by reference=...")
