"""Tests of recipes/plan_memory.py with every recipe."""

import re

import pytest
import torch

from tests.support.configs import CONFIGS
from tests.support.lab import ROOT
from tests.support.run_script import run_script
from trainer_ext.memory.gpus import DRIVER_NAMES, GPUS, find_gpu
from trainer_ext.memory.sharding import Sharding, read_sharding
from trainer_ext.students.registry import find_student_family

ACCELERATE = ROOT / "recipes" / "accelerate"
MODELS = ROOT / "recipes" / "model_configs" / "Qwen"


@pytest.fixture
def plan(monkeypatch, capsys):
    def run(config: str, *words: str) -> tuple[str, str]:
        file = f"recipes/configs/{config}.yaml"
        return run_script("plan_memory.py", ["--config", file, *words], monkeypatch, capsys)

    return run


# A plan builds the whole model without weights, which takes seconds.
PLANNED_BY_DEFAULT = ("tiny", "tiny_stored")
FITS = {
    "omni7b_qlora_stored": "12GB", "omni7b_qlora": "16GB", "omni3b_qlora_stored": "8GB", "omni7b_lora": "24GB",
    "omni3b_qlora": "12GB", "omni3b_lora": "16GB", "qwen2_audio_qlora": "16GB", "qwen3_asr_lora": "12GB",
    "voxtral_qlora": "16GB",
}  # fmt: skip
FITS_BY_DEFAULT = ("omni7b_qlora_stored", "omni7b_qlora", "omni3b_qlora_stored")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=[] if file.stem in PLANNED_BY_DEFAULT else pytest.mark.slow)
        for file in CONFIGS
        if file.stem not in FITS  # planned by the test below
    ],
    ids=lambda file: file.stem,
)
def test_every_recipe_gets_a_memory_plan(plan, file):
    """Prevents: a recipe that the memory plan cannot read."""
    words = ["--gpu", "rtx4090"]
    if "accelerate/fsdp2" in file.read_text():
        words += ["--accelerate_config", str(ACCELERATE / "fsdp2.yaml")]
    said, refusal = plan(file.stem, *words)
    assert not refusal
    assert re.search(r"fits RTX 4090|does not fit RTX 4090", said)
    assert re.search(r"h for 67,209 rows", said)


@pytest.mark.parametrize(
    ("config", "card"),
    [pytest.param(*fits, marks=[] if fits[0] in FITS_BY_DEFAULT else pytest.mark.slow) for fits in FITS.items()],
)
def test_a_recipe_fits_the_gpu_in_its_header(plan, config, card):
    """Prevents: a header that promises a GPU on which the recipe does not fit."""
    said, _ = plan(config, "--gpu", card)
    assert f"fits {card.replace('GB', ' GB')}" in said
    assert "does not fit" not in said
    header = (ROOT / "recipes" / "configs" / f"{config}.yaml").read_text().split("output_dir")[0]
    assert card.replace("GB", " GB") in header
    peak = re.search(r"peak +([\d.]+)", said)
    planned = re.search(r"Planned: ([\d.]+) GiB", header)
    assert peak
    assert planned
    assert abs(float(peak[1]) - float(planned[1])) < 0.2


def test_a_recipe_that_does_not_fit_gets_a_proposal(plan):
    """Prevents: trial and error with downloads of 15 GB."""
    said, _ = plan("omni7b_lora", "--gpu", "12GB")
    assert "does not fit 12 GB" in said
    ways = said.partition("savings, one after the other")[2].splitlines()[1:]
    assert any(line.strip().startswith("teacher_kind: stored") for line in ways)
    assert any(line.strip().startswith("load_in_4bit: true") and "fits 12 GB" in line for line in ways)


def test_a_full_fine_tune_is_sharded_over_gpus(plan):
    """Prevents: one number for ZeRO-2, which keeps the weights whole, and FSDP2, which does not."""
    peaks = []
    for name in ("zero2", "fsdp2"):
        said, _ = plan(
            "omni3b_full",
            "--gpu",
            "a100-80gb",
            "--accelerate_config",
            str(ACCELERATE / f"{name}.yaml"),
        )
        peaks.append(float(re.search(r"peak +([\d.]+)", said)[1]))
    alone = float(re.search(r"peak +([\d.]+)", plan("omni3b_full", "--gpu", "a100-80gb")[0])[1])
    assert peaks[1] < peaks[0] < alone


def test_unknown_gpus_and_impossible_lengths_are_refused_in_one_line(plan):
    """Prevents: an error hidden below the libraries' warnings."""
    assert "unknown GPU 'toaster'" in plan("tiny", "--gpu", "toaster")[1]
    assert "no room for an answer" in plan("omni3b_qlora", "--speech_seconds", "60")[1]
    assert find_gpu("RTX 4090") == GPUS["rtx4090"]
    assert find_gpu("11.5GiB").memory_gib == 11.5
    assert set(DRIVER_NAMES.values()) <= set(GPUS)


@pytest.mark.parametrize(
    ("name", "thinker", "head"),
    [
        ("Qwen2.5-Omni-7B", 8_931_813_888, 152_064 * 3_584),
        ("Qwen2.5-Omni-3B", 4_703_464_448, 151_936 * 2_048),
    ],
)
def test_the_sizes_are_those_of_the_published_models(name, thinker, head):
    """Prevents: plans for other parameter counts than those in the published weight indexes."""
    family, config = find_student_family(str(MODELS / name))
    empty_model = family.make_empty_model(config, torch.bfloat16)
    assert sum(parameter.numel() for parameter in empty_model.parameters()) == thinker
    assert empty_model.get_output_embeddings().weight.numel() == head


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single_gpu", Sharding(1)),
        ("multi_gpu", Sharding(4)),
        ("fsdp2", Sharding(8, True, True, True)),
        ("zero2", Sharding(8, False, True, True, keeps_masters_apart=True)),
        ("zero3", Sharding(8, True, True, True, keeps_masters_apart=True, offloads_optimizer=True)),
    ],
)
def test_sharding_is_read_from_the_accelerate_config(name, expected):
    """Prevents: a plan for eight GPUs that counts one."""
    assert read_sharding(ACCELERATE / f"{name}.yaml") == expected
