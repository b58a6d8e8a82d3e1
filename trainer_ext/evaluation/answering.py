"""The first stage: a benchmark's questions -> answers in a file, resumed where a killed run stopped.

Batches depend on the questions alone, and a batch that was not finished is computed again as a whole: a resumed run
gives the answers of an uninterrupted one. Several processes share the batches; the first one writes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from data_builders.outcomes import TemporaryFailure
from trainer_ext.evaluation.answer_file import answer_path, append_answers, cut_incomplete_line, read_answers
from trainer_ext.evaluation.benchmarks.base import LoadedBenchmark
from trainer_ext.evaluation.items import REFUSED, Answer, AnsweredItem
from trainer_ext.evaluation.sources.base import AnswerSource, Asked, source_key


class Generation(NamedTuple):
    """Limits of generation, which is greedy: `seed` is named for the record alone.

    Attributes:
        max_new_tokens: longest answer; None for the benchmark's own.
        ask: false to read finished answers alone.
    """

    max_new_tokens: int | None = None
    seed: int = 0
    ask: bool = True


def select_asked(loaded: LoadedBenchmark, modality: str) -> list[Asked]:
    """Return the questions of a modality: in writing once each where they are written, otherwise every recording."""
    asked: dict[str, Asked] = {}
    for position, item in enumerate(loaded.items):
        if modality != "text":
            # Another clip under the same id is another question.
            heard = replace(item, details={**item.details, "clip": loaded.clip_hashes[position]})
            asked[item.id] = Asked(heard, partial(loaded.read_clip, position))
        elif item.question:
            asked.setdefault(item.question_id, Asked(item))
    return list(asked.values())


def answer_benchmark(
    source: AnswerSource, loaded: LoadedBenchmark, modality: str, folder: Path, generation: Generation
) -> list[AnsweredItem]:
    """Return the answers of a model to a benchmark in one modality, in the order of the items; asks what is missing.

    Raises:
        TemporaryFailure: a server failed on some questions; the others are in the file, and a rerun asks these again.
        ValueError: an answer is missing, and `generation.ask` is false.
    """
    max_new_tokens = generation.max_new_tokens or loaded.benchmark.max_new_tokens
    settings = [str(max_new_tokens), *([loaded.condition] if loaded.condition else [])]
    file = answer_path(folder, source_key(source), loaded.benchmark.name, modality, settings)
    asked = select_asked(loaded, modality)
    state = PartialState()
    if state.is_main_process:
        cut_incomplete_line(file)
    state.wait_for_everyone()
    items = {entry.item.id: entry.item for entry in asked}
    # An answer counts for the question as it is now, of whatever run.
    found = {
        entry.item.id: entry
        for entry in read_answers(file)
        if entry.item == items.get(entry.item.id) and (source.refuses_for_good or entry.answer.finish_reason != REFUSED)
    }
    state.wait_for_everyone()
    if missing := sum(entry.item.id not in found for entry in asked):
        if not generation.ask:
            raise ValueError(f"{file}: {missing} of {len(asked)} answers are missing; run the stage `answers` first")
        facts = {
            "benchmark": loaded.benchmark.name,
            "condition": loaded.condition,
            **source.describe(),
            "label": source.label,
            "generation": {"do_sample": False, "max_new_tokens": max_new_tokens},
            "seed": generation.seed,
        }
        ask_missing(source, asked, modality, max_new_tokens, file, found, facts)
    return [found[entry.item.id] for entry in asked]


def ask_missing(
    source: AnswerSource,
    asked: Sequence[Asked],
    modality: str,
    max_new_tokens: int,
    file: Path,
    found: dict[str, AnsweredItem],
    facts: dict[str, Any],
) -> None:
    """Ask the questions of every unfinished batch, and add the answers to the file and to `found`."""
    state = PartialState()
    batches = [
        batch
        for batch in source.cut(asked, modality)
        if any(asked[position].item.id not in found for position in batch)
    ]
    failures: dict[str, str] = {}
    progress = tqdm(
        total=sum(map(len, batches)), unit="answer", disable=not state.is_main_process,
        desc=f"{source.label}, {facts['benchmark']}, {modality}",
    )  # fmt: skip
    for start in range(0, len(batches), state.num_processes):
        round_ = batches[start : start + state.num_processes]
        ours = round_[state.process_index] if state.process_index < len(round_) else []
        outcomes = source.answer([asked[i] for i in ours], modality, max_new_tokens) if ours else []
        gathered = gather_object(list(zip(ours, outcomes, strict=True)))
        new = []
        for position, outcome in gathered:
            item = asked[position].item
            if isinstance(outcome, Answer):
                if item.id not in found:
                    new.append(AnsweredItem(item, modality, outcome))
            else:
                failures[item.id] = str(outcome)
        if state.is_main_process and new:
            append_answers(file, new, facts)
        found |= {entry.item.id: entry for entry in new}
        progress.update(len(gathered))
    progress.close()
    if failures:
        first = next(iter(failures.items()))
        raise TemporaryFailure(
            f"{len(failures)} of {len(asked)} questions of {facts['benchmark']} have no answer from {source.label}; "
            f"the others are in {file}, and running this again asks for these alone. The first, {first[0]}: {first[1]}"
        )
