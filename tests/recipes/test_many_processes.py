"""Tests of several processes over gloo: DDP, and DeepSpeed's ZeRO where it is installed (`pip install deepspeed`)."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from tests.support.lab import LAB, ROOT, TEACHER, write_questions
from tests.support.processes import TORCHRUN, run
from tests.support.tiny_omni import read_weights

ACCELERATE = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
# One process takes the even rows of the data, the other the odd ones.
IN_ORDER = ["--train_sampling_strategy", "sequential", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def uneven_questions(tmp_path_factory) -> str:
    """Return questions of which every second trains t2t alone, so that one of two processes gets no clip."""
    lines = (LAB / "questions.jsonl").read_text().splitlines()
    rows = [row for line in lines[::5] if (row := json.loads(line))["split"] == "train"]
    for number, row in enumerate(rows):
        row["channels"] = ["t2t", "s2t"] if number % 2 == 0 else ["t2t"]
    return str(write_questions(tmp_path_factory.mktemp("questions") / "questions.jsonl", rows))


@pytest.fixture
def train(uneven_questions, tmp_path):
    def start(processes: int, name: str, *words: str, script: str = "recipes/s2t_t2t.py") -> Path:
        output = tmp_path / name
        shared = ["--questions", uneven_questions, "--teacher_model_name_or_path", TEACHER]
        shared += ["--cache_dir", str(tmp_path / "data")]
        shared += ["--recordings_per_question", "1", "--output_dir", str(output), *IN_ORDER]
        launcher = ["python"] if processes == 1 else [*TORCHRUN, str(processes)]
        run([*launcher, script, *shared, *words], DS_ACCELERATOR="cpu")
        return output

    return start


def read_losses(output: Path) -> torch.Tensor:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return torch.tensor([entry["loss"] for entry in history if "loss" in entry])


@pytest.mark.slow
def test_two_processes_save_the_adapter_of_one(train):
    """Prevents: gradients averaged where they should be summed, or a hang when one process alone has speech."""
    ten = ["--max_steps", "10", "--logging_steps", "1"]
    alone = train(1, "alone", *ten, "--per_device_train_batch_size", "8")
    both = train(2, "both", *ten, "--per_device_train_batch_size", "4")
    assert torch.allclose(read_losses(alone), read_losses(both), atol=1e-4)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (both, alone))
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-4
    assert max(weight.abs().max() for name, weight in ours.items() if "lora_B" in name) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_as_one_process_does(train, tmp_path, stage):
    """Prevents: a ZeRO-3 run that hangs without speech on one rank, or cannot build Qwen2.5-Omni partitioned."""
    pytest.importorskip("deepspeed", reason="pip install deepspeed")
    named = ROOT / "recipes" / "accelerate" / f"zero{stage}.yaml"
    deepspeed = yaml.safe_load(named.read_text())["deepspeed_config"]
    assert deepspeed["zero_stage"] == stage
    config = tmp_path / "deepspeed.json"
    left_to_trainer = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping")
    config.write_text(
        json.dumps(
            {
                **dict.fromkeys((*left_to_trainer, "gradient_accumulation_steps"), "auto"),
                "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
                "zero_allow_untested_optimizer": True,
            }
        )
    )
    few = ["--config", "recipes/configs/tiny_full.yaml", "--max_steps", "4", "--logging_steps", "1"]
    alone = train(1, "alone", *few, "--per_device_train_batch_size", "8")
    both = train(
        *(2, "both", *few, "--per_device_train_batch_size", "4", "--deepspeed", str(config)),
        script="tests/support/zero_run.py",
    )
    assert torch.allclose(read_losses(alone), read_losses(both), atol=1e-3)
    ours, theirs = read_weights(both), read_weights(alone)
    assert ours.keys() == theirs.keys()
    assert max((ours[name].float() - theirs[name].float()).abs().max() for name in ours) < 1e-3


@pytest.mark.parametrize("file", ACCELERATE, ids=lambda file: file.stem)
def test_accelerate_reads_its_configs(file):
    """Prevents: a key that accelerate renamed, found at the launch on a rented machine."""
    config = load_config_from_file(str(file))
    assert config.mixed_precision == "bf16"
    assert file.read_text().startswith("#")


def test_the_classes_that_fsdp_wraps_are_in_the_model(student):
    """Prevents: a launch that accelerate refuses for want of a class to wrap."""
    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / "fsdp2.yaml"))
    named = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert set(named) <= {type(module).__name__ for module in student.modules()}
    assert config.fsdp_config["fsdp_version"] == 2
