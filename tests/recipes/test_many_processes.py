"""Real processes over gloo: DDP, and DeepSpeed's ZeRO where it is installed (`pip install deepspeed`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from tests.support.tiny_omni import read_weights

ROOT = Path(__file__).parents[2]
ACCELERATE = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
# One process takes the even rows of the data, the other the odd ones.
IN_ORDER = ["--train_sampling_strategy", "sequential", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def uneven_prompts(tmp_path_factory) -> str:
    """Training questions of which every second trains t2t alone: one of two processes never hears anything."""
    file = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    lines = (ROOT / "recipes" / "tiny_lab" / "questions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[::5]]
    rows = [row for row in rows if row["split"] == "train"]
    for number, row in enumerate(rows):
        row["channels"] = ["t2t", "s2t"] if number % 2 == 0 else ["t2t"]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(file)


@pytest.fixture
def run(uneven_prompts, tmp_path):
    def start(processes: int, name: str, *words: str, script: str = "recipes/s2t_t2t.py") -> Path:
        launcher = [sys.executable]
        if processes > 1:
            launcher += [
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc_per_node",
                str(processes),
            ]
        output = tmp_path / name
        shared = ["--questions", uneven_prompts, "--cache_dir", str(tmp_path / "data")]
        shared += ["--recordings_per_question", "1", "--output_dir", str(output), *IN_ORDER]
        done = subprocess.run(
            [*launcher, script, *shared, *words],
            cwd=ROOT,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return output

    return start


def read_losses(output: Path) -> torch.Tensor:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return torch.tensor([entry["loss"] for entry in history if "loss" in entry])


def test_two_processes_save_the_adapter_of_one(run):
    """Gradients averaged where they should be summed; rows of one process that the other never sees; a hang when only
    one of them has speech."""
    ten = ["--max_steps", "10", "--logging_steps", "1"]
    alone = run(1, "alone", *ten, "--per_device_train_batch_size", "8")
    both = run(2, "both", *ten, "--per_device_train_batch_size", "4")
    assert torch.allclose(read_losses(alone), read_losses(both), atol=1e-4)
    ours, theirs = (load_file(run / "adapter_model.safetensors") for run in (both, alone))
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-4
    assert max(weight.abs().max() for name, weight in ours.items() if "lora_B" in name) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_as_one_process_does(run, tmp_path, stage):
    """ZeRO-3 hangs where one process hears and another does not, and cannot build Qwen2.5-Omni in parts."""
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
                "zero_optimization": {
                    "stage": stage,
                    "stage3_gather_16bit_weights_on_model_save": True,
                },
                "zero_allow_untested_optimizer": True,
            }
        )
    )
    few = ["--config", "recipes/configs/tiny_full.yaml", "--max_steps", "4", "--logging_steps", "1"]
    alone = run(1, "alone", *few, "--per_device_train_batch_size", "8")
    both = run(
        *(2, "both", *few, "--per_device_train_batch_size", "4", "--deepspeed", str(config)),
        script="tests/support/zero_run.py",
    )
    assert torch.allclose(read_losses(alone), read_losses(both), atol=1e-3)
    ours, theirs = read_weights(both), read_weights(alone)
    assert ours.keys() == theirs.keys()
    assert max((ours[name].float() - theirs[name].float()).abs().max() for name in ours) < 1e-3


@pytest.mark.parametrize("file", ACCELERATE, ids=lambda file: file.stem)
def test_accelerate_takes_its_configs(file):
    """A key that accelerate renamed is an error at the launch, on the machine with the cards."""
    config = load_config_from_file(str(file))
    assert config.mixed_precision == "bf16"
    assert file.read_text().startswith("#")


def test_what_fsdp_shares_is_in_the_model(student):
    """accelerate refuses to start when it cannot find a class that it is to wrap."""
    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / "fsdp2.yaml"))
    named = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    there = {type(module).__name__ for module in student.modules()}
    assert set(named) <= there
    assert config.fsdp_config["fsdp_version"] == 2
