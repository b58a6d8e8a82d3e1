"""Examine an adapter: is it applied, does it change anything, who can serve it, and what to do if not.

    adapter_config.json, header of the weights -> keys beside the model's -> values -> logits with and without it

    python recipes/doctor.py outputs/tiny
    python recipes/doctor.py someone/old-adapter --repaired_dir outputs/repaired    # with the names of transformers 5

For any PEFT adapter of a supported student, made here or not. Exit code 0 for a good adapter, 1 for one with a finding.
"""

from trainer_ext.early_answers import answer_early

answer_early(__name__, __file__)  # the imports below take seconds

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig
from torch import Tensor
from transformers.hf_argparser import HfArg

from trainer_ext.command_line import run_command
from trainer_ext.export.merge import find_base, refuse_unmerged
from trainer_ext.export.targets import choose_vllm_rank
from trainer_ext.loading.adapter import check_can_be_turned_off, load_fitting_adapter
from trainer_ext.loading.adapter_files import (
    find_weights,
    module_of,
    read_adapter_config,
    read_versions,
    read_weights,
    write_renamed,
)
from trainer_ext.loading.adapter_keys import KeyReport, compare_keys, describe_other_rank
from trainer_ext.loading.adapter_values import WeightReport, inspect_weights, measure_effect
from trainer_ext.loading.student import inference_options
from trainer_ext.parser import RecipeParser
from trainer_ext.progress import keep_libraries_quiet
from trainer_ext.students.base import StudentFamily
from trainer_ext.students.registry import load_student_family

FINDING = 1  # exit code


@dataclass
class DoctorArguments:
    """The adapter, and the model that it is for."""

    adapter: str = HfArg(help="A folder or a Hub id.")
    adapter_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the adapter.")
    model_name_or_path: str | None = HfArg(default=None, help="The base. Unset: the one that the adapter names.")
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the base.")
    question: str = HfArg(default="What is two plus three?", help="Prompt on which the logits are compared.")
    load_weights: bool = HfArg(
        default=True, help="Load the base and compare logits; false reads the adapter and the base's config alone."
    )
    dtype: str = HfArg(default="auto", help="Precision of the base.")
    repaired_dir: str | None = HfArg(default=None, help="Write the adapter with the model's names into this folder.")


def main() -> None:
    parser = RecipeParser((DoctorArguments,), positional=("adapter",))
    (arguments,) = parser.parse_args_and_config()
    keep_libraries_quiet()
    name, revision = arguments.adapter, arguments.adapter_revision
    file = find_weights(name, revision)
    config = read_adapter_config(name, revision)
    base, base_revision = find_base(name, revision, arguments.model_name_or_path, arguments.model_revision)
    named = config.base_model_name_or_path
    show("adapter", f"{name}: {config.peft_type.value}, rank {getattr(config, 'r', '?')}")
    show("made by", read_versions(name, revision))
    show("base", base if base == named else f"{base} (the adapter names {named})")
    try:
        family = load_student_family(base, base_revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"the base {base} cannot be read ({error}): name it by --model_name_or_path") from error
    weights = read_weights(file)
    keys, values = compare_keys(weights, config, family), inspect_weights(weights)
    show_keys(keys)
    show("weights", describe_weights(values))
    show("vLLM", describe_serving(name, config, family, keys, values))
    finding = find_fault(config, keys, values)
    if finding is None and arguments.load_weights:
        finding = show_effect(arguments, family, base, base_revision)
    if arguments.repaired_dir is not None:
        finding = repair(arguments, weights, config, keys, values, finding)
    show("verdict", finding or "good: all of it is applied, and it has an effect")
    raise SystemExit(FINDING if finding else 0)


def show(label: str, text: str) -> None:
    print(f"{label:<10}{text}", flush=True)


def show_keys(keys: KeyReport) -> None:
    """Print which keys match, and examples of those that do not."""
    show("keys", f"{keys.loaded} of {keys.saved} are loaded")
    if keys.converted:
        old, new = next(iter(keys.converted.items()))
        show("", f"{len(keys.converted)} under another name, which this version of PEFT understands: {old} as {new}")
    if keys.idle:
        show("", f"{keys.idle} that the config asks for in other parts of the model were not saved, and stay untouched")
    if keys.renamed:
        old, new = next(iter(keys.renamed.items()))
        why = "are of layers that the config does not target" if old == new else f"have other names: {old}, here {new}"
        show("", f"{len(keys.renamed)} {why}")
    if keys.misshapen:
        key, (saved, wanted) = next(iter(keys.misshapen.items()))
        show("", f"{len(keys.misshapen)} have other shapes: {key} is {saved}, here {wanted}")
    if keys.unknown:
        show("", f"{len(keys.unknown)} are of no layer that the config targets here: {first(keys.unknown)}")
    if keys.missing:
        show("", f"{len(keys.missing)} that the config asks for are missing: {first(keys.missing)}")


def describe_weights(values: WeightReport) -> str:
    """Return whether the values are finite and B was trained."""
    text = "finite" if not values.not_finite else f"not finite in {first(values.not_finite)}"
    return f"{text}; B is zero in {len(values.zero_b)} of {values.all_b} layers"


def describe_serving(
    adapter: str, config: PeftConfig, family: StudentFamily, keys: KeyReport, values: WeightReport
) -> str:
    """Return whether vLLM can serve the adapter, and how: what its export would refuse is no."""
    target = next((target for target in family.export_targets.values() if target.served_by_vllm), None)
    if target is None:
        return "no: this family has no export for it"
    try:
        rank = choose_vllm_rank(config)
        refuse_unmerged(adapter, config)
        for key in [*keys.matched, *keys.converted.values(), *keys.renamed.values()]:
            target.rename(module_of(key))
    except ValueError as error:
        return f"no: {error}"
    if values.not_finite or values.is_untrained or keys.unknown or keys.misshapen:
        return "no: see the verdict"
    first_step = "--repaired_dir and then " if keys.renamed or keys.converted else ""
    return f"yes, at --max-lora-rank {rank}, after {first_step}recipes/export_omni.py --target vllm_adapter"


def find_fault(config: PeftConfig, keys: KeyReport, values: WeightReport) -> str | None:
    """Return the finding that weighs most, and what to do; None for none."""
    try:
        check_can_be_turned_off(config, "the adapter")
    except ValueError as error:
        return str(error)
    if values.not_finite:
        return "broken: it has values that are not finite. Use an earlier checkpoint, or train again"
    if keys.misshapen and (other_rank := describe_other_rank(config, keys)):
        return f"not loaded: {other_rank}. Correct the config, or ask the author for the one that belongs to it"
    if keys.misshapen or (keys.unknown and not keys.loaded and not keys.renamed):
        return (
            "of another model: name the one that it was trained on by --model_name_or_path. On this one PEFT stops, or "
            "leaves the layers untrained"
        )
    if keys.renamed:
        part = f"a part of it ({keys.loaded} of {keys.saved} keys)" if keys.loaded else "nothing of it"
        return (
            f"{part} is applied: its keys have names of another version or layout. --repaired_dir FOLDER writes it "
            "with the names of this model"
        )
    if keys.unknown or keys.missing:
        return (
            "a part of it is not applied: its target_modules and its weights do not agree, or the file is not "
            "complete. Download or save it again, or ask its author"
        )
    if values.is_untrained:
        return (
            "without effect: B is zero everywhere, as before training. Look at the run that made it: it saved before "
            "its first step, or no gradient reached these layers"
        )
    return None


def show_effect(arguments: DoctorArguments, family: StudentFamily, base: str, revision: str | None) -> str | None:
    """Print how far the logits move; returns a finding if they do not."""
    model = family.load_model(base, **inference_options(family, arguments.dtype, revision))
    try:
        adapted = load_fitting_adapter(model, arguments.adapter, arguments.adapter_revision)
    except ValueError as error:
        return str(error)
    ids = family.encode_text_prompt(arguments.question, "")
    effect = measure_effect(adapted, ids)
    show(
        "effect",
        f"on {arguments.question!r}: KL {effect.kl:.2g} nats per token, largest change of a logit "
        f"{effect.largest:.2g}, another likeliest token at {effect.changed} of {effect.tokens} positions",
    )
    if not math.isfinite(effect.largest):
        return "broken: the logits with it are not finite. Use an earlier checkpoint, or train again"
    if effect.largest == 0:
        return (
            "without effect on a written prompt: its layers are not in the language model, or what they add is "
            "rounded away. Ask by voice (recipes/ask.py --audio) to see whether it changes anything there"
        )
    return None


def first(names: Iterable[str], shown: int = 2) -> str:
    """Return the first names, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def repair(
    arguments: DoctorArguments,
    weights: Mapping[str, Tensor],
    config: PeftConfig,
    keys: KeyReport,
    values: WeightReport,
    finding: str | None,
) -> str | None:
    """Write the adapter with the model's names, if names are all that is wrong; returns the finding that is left."""
    assert arguments.repaired_dir is not None
    renamed = keys.renamed | keys.converted
    if keys.unknown or keys.misshapen or values.not_finite or not renamed:
        show("repaired", "nothing: no key has another name" if not renamed else "nothing: see the verdict")
        return finding
    write_renamed(weights, config, renamed, Path(arguments.repaired_dir))
    show("repaired", f"{len(renamed)} keys: {arguments.repaired_dir}")
    return f"repaired: examine {arguments.repaired_dir}"


if __name__ == "__main__":
    torch.manual_seed(0)
    run_command(main)
