"""SIGTERM and SIGINT during training: the step ends, a checkpoint is saved, the process exits with 143 or 130."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def ends_epoch(state: TrainerState) -> bool:
    """Tell whether the step that was taken last is the last one of its epoch."""
    epoch = state.epoch or 0.0
    return epoch > 0 and abs(epoch - round(epoch)) < 1e-6


class TrainingStopped(SystemExit):
    """Training ended by a signal, with a checkpoint; nothing after it may be reported, carded or pushed."""

    code: int


class StopSignals(TrainerCallback):
    """Stops training after the step in which a signal arrives at any process; a second signal acts at once.

    Attributes:
        received: the signal's number, equal in all processes; None until one has arrived.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.received: int | None = None
        self._pending = 0
        self._replaced: dict[int, Any] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within the block; outside the main thread, where Python cannot, do nothing."""
        if threading.current_thread() is threading.main_thread():
            self._replaced = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        finally:
            self._restore()
        self._agree()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._pending = number
        self._restore()
        print(f"\n{signal.Signals(number).name}: stopping after this step; once more stops at once", flush=True)

    def _restore(self) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced = {}

    def _agree(self) -> bool:
        """Tell whether a signal has arrived at any process."""
        if self.accelerator.num_processes > 1:
            pending = torch.tensor([self._pending], device=self.accelerator.device)
            self._pending = int(self.accelerator.gather(pending).max())
        self.received = self._pending or None
        return self.received is not None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # An evaluation that is due takes place: it draws from the random state, and may be the best one.
        if self._agree():
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.received is not None and not ends_epoch(state):  # the step's end has saved
            control.should_save = control.should_evaluate = False

    def raise_if_stopped(self, state: TrainerState, checkpoint: str) -> None:
        """Raise TrainingStopped, with a line on how to go on, if a signal ended the training."""
        if self.received is not None:
            if self.accelerator.is_main_process:
                print(
                    f"stopped by {signal.Signals(self.received).name} after step {state.global_step} of "
                    f"{state.max_steps}; {checkpoint} is complete: --resume_from_checkpoint true goes on from it",
                    flush=True,
                )
            raise TrainingStopped(128 + self.received)
