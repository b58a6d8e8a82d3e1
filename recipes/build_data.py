"""From questions to checked speech: a data set that a run can train on, built once, by as many machines as there are.

    questions -> filter -> teacher's answers -> speech -> recognizer -> parquet, card -> Hub

With no arguments it makes one of the tiny lab's questions, on a bare CPU, in a minute or two:

    python recipes/build_data.py
    python recipes/build_data.py --config recipes/configs/data/open_orca.yaml

A killed build goes on where it was; a second run does nothing; new voices redo speech and checks alone. Several
machines that share `cache_dir`: `--shard 0/4` to `--shard 3/4`, then once without; or `--executor slurm`.
"""

from pathlib import Path

from data_builders.answers.fingerprint import fingerprint_teacher
from data_builders.arguments import BuildArguments
from data_builders.clients.concurrent import ServerUnreachable
from data_builders.pipeline.assemble import read_manifest
from data_builders.pipeline.build import build_dataset
from trainer_ext.parser import RecipeParser

TINY_LAB = Path(__file__).parent / "configs" / "data" / "tiny.yaml"


def main() -> None:
    (arguments,) = RecipeParser((BuildArguments,), TINY_LAB).parse_args_and_config()
    try:
        folder = build_dataset(arguments, fingerprint_teacher(arguments))
    except (ValueError, ServerUnreachable) as error:
        raise SystemExit(f"build_data.py: error: {error}") from error
    if folder is None:  # other machines, or a queue, are still at it
        return
    manifest = read_manifest(folder)
    assert manifest is not None
    rows = ", ".join(f"{count} {split}" for split, count in manifest["rows"].items())
    print(f"{folder}: {rows} rows")


if __name__ == "__main__":
    main()
