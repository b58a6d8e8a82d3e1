"""Tests that the flat loop equals the trainer's step."""

import copy
import runpy
import sys

import torch
from peft import LoraConfig, get_peft_model

from tests.support.gradients import TOLERANCE, difference, gradients, named_gradients
from tests.support.lab import ROOT
from trainer_ext.loss.objective import Objective
from trainer_ext.students.distill_forward import install_distill_forward

SCRIPT = ROOT / "recipes" / "flat_loop.py"


def test_its_gradient_equals_the_trainers(make_trainer, pristine_student, family, teacher):
    """Prevents: a file to learn from that teaches another loss."""
    flat_loop = runpy.run_path(str(SCRIPT))
    lora = LoraConfig(target_modules=family.lora_target_modules, init_lora_weights=False)
    torch.manual_seed(0)
    trainer = make_trainer(peft_config=lora)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    ours = copy.deepcopy(pristine_student)
    install_distill_forward(ours, family.packed_inputs)
    torch.manual_seed(0)
    student = get_peft_model(ours, lora)
    student.load_state_dict(trainer.model.state_dict())
    flat_loop["training_loss"](student, teacher, Objective(0.5, 2.0), batch).backward()
    assert difference(named_gradients(student), gradients(trainer, [batch])) < TOLERANCE


def test_it_trains_the_lab(tmp_path, data_arguments, pairs, monkeypatch, capsys):
    """Prevents: a script that fails after a rename, or whose loss does not fall."""
    module = runpy.run_path(str(SCRIPT))
    namespace = module["main"].__globals__
    namespace["STEPS"] = 20
    namespace["load_pairs"] = lambda *_: pairs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["flat_loop.py"])
    module["main"]()
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert losses[-1] < losses[0]
    assert (tmp_path / "outputs" / "flat_loop" / "adapter_model.safetensors").is_file()
