"""Tests of SIGTERM and SIGINT during training."""

import copy
import math
import os
import signal

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback

from trainer_ext.checkpoints.complete import find_corruption
from trainer_ext.checkpoints.stop_signals import TrainingStopped


class SendSignal(TrainerCallback):
    """Sends a signal to this process in the middle of a step, or when all steps are taken."""

    def __init__(self, number: int, step: int, at_end: bool = False) -> None:
        self.number, self.step, self.at_end = number, step, at_end

    def on_step_begin(self, args, state, control, **_):
        if not self.at_end and state.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)

    def on_train_end(self, args, state, control, **_):
        if self.at_end:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("save_strategy", ["no", "epoch"])
def test_a_signal_ends_the_step_and_the_run_goes_on_from_it(
    make_trainer, student, tmp_path, capsys, number, code, save_strategy
):
    """Prevents: a night lost to the end of a job's time or to Ctrl-C: nothing saved, nothing said."""
    arguments = dict(max_steps=4, save_strategy=save_strategy, lr_scheduler_type="cosine")
    straight = make_trainer(model=copy.deepcopy(student), **arguments, output_dir=str(tmp_path / "straight"))
    straight.train()
    expected = straight.model.state_dict()

    stopped = make_trainer(model=copy.deepcopy(student), **arguments)
    stopped.add_callback(SendSignal(number, 2))
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(TrainingStopped) as caught:
        stopped.train()
    assert caught.value.code == code
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    said = capsys.readouterr().out
    assert f"stopped by {signal.Signals(number).name} after step 2 of 4" in said
    assert find_corruption(tmp_path / "run" / "checkpoint-2") is None

    resumed = make_trainer(model=copy.deepcopy(student), **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-2: step 2 of 4" in capsys.readouterr().out
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


@pytest.mark.parametrize(("strategy", "step"), [("steps", 2), ("epoch", 2), ("epoch", 4), ("epoch", 8)])
def test_an_evaluation_that_is_due_is_not_left_out(make_trainer, pairs, family, student, tmp_path, strategy, step):
    """Prevents: other dropout after the resume, because the evaluation drew no random numbers; another best step."""
    lora = LoraConfig(target_modules=family.lora_target_modules, lora_dropout=0.3)
    evaluation = dict(
        eval_strategy=strategy, eval_steps=1, save_strategy=strategy, save_steps=1, learning_rate=5e-3,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True,
    )  # fmt: skip

    def make(name):
        return make_trainer(
            model=copy.deepcopy(student), peft_config=lora, train_dataset=pairs["train"].select(range(16)),
            eval_dataset=pairs["test"].select(range(4)), num_train_epochs=2, max_steps=-1,
            output_dir=str(tmp_path / name), **evaluation,
        )  # fmt: skip

    straight = make("straight")
    straight.train()
    stopped = make("stopped")
    stopped.add_callback(SendSignal(signal.SIGTERM, step))
    with pytest.raises(TrainingStopped):
        stopped.train()
    resumed = make("stopped")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.best_global_step == straight.state.best_global_step
    expected = straight.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_a_signal_after_the_last_step_saves_what_was_trained(make_trainer, student, tmp_path):
    """Prevents: a finished training without any checkpoint, lost in the second before its scores."""
    trainer = make_trainer(model=copy.deepcopy(student), max_steps=2)
    trainer.add_callback(SendSignal(signal.SIGTERM, 0, at_end=True))
    with pytest.raises(TrainingStopped):
        trainer.train()
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    assert torch.equal(saved["lm_head.weight"], trainer.model.lm_head.weight)
    assert find_corruption(tmp_path / "run" / "checkpoint-2") is None


def test_weights_that_became_nan_in_the_last_step_are_not_saved(make_trainer, tmp_path):
    """Prevents: an adapter of NaN, saved as good, where no checkpoint was saved on the way."""
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.model.lm_head.weight.data[3, 3] = math.nan
    with pytest.raises(FloatingPointError, match=r"after step 1 .*lm_head"):
        trainer.save_model()
    assert not (tmp_path / "run" / "model.safetensors").exists()
