"""Build a data set that a run can train on, from questions to verified speech, once, on any number of machines.

    questions -> filter -> teacher's answers -> speech -> verification -> parquet, card -> Hub

    python recipes/build_data.py                                                   # the tiny lab: 25 s on two cores
    python recipes/build_data.py --config recipes/configs/data/open_orca.yaml

A killed build resumes; a second run does nothing; new voices redo speech and verification alone. Several machines that
share `cache_dir`: `--shard 0/4` to `--shard 3/4`, then once without; or `--executor slurm`.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

from pathlib import Path

from data_builders.arguments import (
    AnswerArguments,
    BuildSettings,
    PipelineArguments,
    QuestionArguments,
    SpeechArguments,
    VerificationArguments,
)
from data_builders.pipeline.assemble import read_manifest
from data_builders.pipeline.build import build_dataset
from data_builders.pipeline.executors import die_with_starter
from data_builders.pipeline.outcome_table import show_outcomes
from data_builders.pipeline.preview import preview_questions
from data_builders.speech.recordings import recordings_per_split
from trainer_ext.command_line import run_command
from trainer_ext.parser import RecipeParser

TINY_LAB = Path(__file__).parent / "configs" / "data" / "tiny.yaml"
SETTINGS = (QuestionArguments, AnswerArguments, SpeechArguments, VerificationArguments, PipelineArguments)


def main() -> None:
    parser = RecipeParser(SETTINGS, TINY_LAB)
    settings = BuildSettings(*parser.parse_args_and_config())
    parser.check_teacher_named()
    print(f"config     {parser.describe_source()}")
    print(f"questions  {settings.questions.questions}")
    print(f"teacher    {settings.answers.teacher_model_name_or_path or 'none: answers of the source'}")
    print(f"voices     {settings.speech.speech_engine}: {', '.join(settings.speech.train_voices)}", flush=True)
    if settings.pipeline.dry_run:
        show_preview(settings)
        return
    folder = build_dataset(settings)
    if folder is None:  # other machines, or a queue, are still working
        return
    manifest = read_manifest(folder)
    assert manifest is not None
    show_outcomes(manifest["counts"])
    rows = ", ".join(f"{count} {split}" for split, count in manifest["rows"].items())
    print(f"{folder}: {rows} rows")


def show_preview(settings: BuildSettings) -> None:
    """Print counts, reasons, estimated speech and three rows; nothing is made."""
    recordings = recordings_per_split(settings.speech)
    preview = preview_questions(settings.questions, recordings)
    show_outcomes({"questions": preview.counts})
    spoken = preview.speech_seconds * [recordings[row["split"] != "train"] for row in preview.rows]
    print(f"about {spoken.sum() / 3600:.1f} h of speech; longest question {preview.speech_seconds.max():.0f} s")
    for row in preview.rows[:3]:
        print(f"  {row['split']}, {' '.join(row['channels'])}: {row['question']!r}, read out {row['spoken_text']!r}")


if __name__ == "__mp_main__":  # a process that datatrove has started
    die_with_starter()
if __name__ == "__main__":
    run_command(main)
