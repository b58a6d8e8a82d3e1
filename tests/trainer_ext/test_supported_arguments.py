"""Tests that every argument of the base classes is read or refused."""

import dataclasses
import re
from pathlib import Path

import pytest
import transformers
import trl
from transformers import TrainingArguments
from trl import ModelConfig, SFTConfig

from tests.support.lab import ROOT
from trainer_ext.arguments import CrossModalDistillConfig, ModelArguments
from trainer_ext.supported_arguments import (
    BASE_CLASSES,
    MODEL_BASE_CLASSES,
    MODEL_READ_HERE,
    MODEL_REFUSED,
    READ_HERE,
    REFUSED,
    WITHOUT_EFFECT_ON_WEIGHTS,
)

OURS = "\n".join(
    file.read_text()
    for folder in ("trainer_ext", "recipes")
    for file in (ROOT / folder).rglob("*.py")
    if file.name != "supported_arguments.py"
)
LIBRARIES = "\n".join(
    Path(module.__file__).parent.joinpath(name).read_text()
    for module, names in (
        (transformers, ("trainer.py", "training_args.py", "trainer_callback.py", "trainer_optimizer.py",
                        "integrations/integration_utils.py")),
        (trl, ("trainer/sft_trainer.py", "trainer/utils.py", "scripts/utils.py", "trainer/model_config.py")),
    )
    for name in names
    if Path(module.__file__).parent.joinpath(name).exists()
)  # fmt: skip
# Values that differ from every default of a type.
OTHER = {bool: lambda value: not value, str: lambda value: f"{value}x", int: lambda value: value + 1,
         float: lambda value: value + 0.5, type(None): lambda _: "x", list: lambda _: ["x"]}  # fmt: skip


def names(kind):
    return {field.name for field in dataclasses.fields(kind)}


def reads(name, source):
    return re.search(rf"\.{name}\b|[\"']{name}[\"']", source) is not None


@pytest.mark.parametrize(
    ("kinds", "lists"),
    [
        ((SFTConfig, TrainingArguments), (READ_HERE, BASE_CLASSES, frozenset(REFUSED))),
        ((ModelConfig,), (MODEL_READ_HERE, MODEL_BASE_CLASSES, frozenset(MODEL_REFUSED))),
    ],
    ids=["SFTConfig", "ModelConfig"],
)
def test_every_field_is_read_here_read_by_the_base_class_or_refused(kinds, lists):
    """Prevents: an argument that is taken and ignored, also one that a new version of a library brings."""
    fields = set().union(*map(names, kinds))
    here, base, refused = lists
    print(f"{kinds[0].__name__}: {len(here)} read here, {len(base)} by the base classes, {len(refused)} refused")
    assert not here & base | here & refused | base & refused
    assert fields - (here | base | refused) == set(), "new fields: decide whether they are read or refused"
    assert (here | base | refused) - fields == set(), "fields that are gone"
    assert [name for name in sorted(here) if not reads(name, OURS)] == []
    assert [name for name in sorted(base) if not reads(name, LIBRARIES)] == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_argument_stops_the_run_by_its_name(tmp_path, name):
    """Prevents: a table of refusals that nobody reads."""
    default = getattr(CrossModalDistillConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False), name)
    with pytest.raises(ValueError, match=f"{name} is refused: "):
        CrossModalDistillConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, **{name: OTHER[type(default)](default)}
        )


@pytest.mark.parametrize("name", sorted(MODEL_REFUSED))
def test_a_refused_argument_of_the_model_stops_the_run_by_its_name(name):
    """Prevents: a table of refusals that nobody reads."""
    with pytest.raises(ValueError, match=f"{name} is refused: "):
        ModelArguments(model_name_or_path="student", **{name: ["x"]})


def test_arguments_without_effect_on_the_weights_exist():
    """Prevents: a name that was changed, so that a resumed run is refused for its folder."""
    assert names(CrossModalDistillConfig) >= WITHOUT_EFFECT_ON_WEIGHTS
