"""The end of a recipe's process: it leaves its process group, runs its exit handlers, and frees no object."""

import atexit
import gc
import os
import sys
import threading


def leave_process_group() -> None:
    """Leave the group of a distributed run: a thread of it that is left at exit aborts a finished run (SIGABRT).

    A model in `DistributedDataParallel` keeps the group, and with it the threads; a trainer, which is a cycle of
    references, keeps the model until it is collected. Source: https://github.com/pytorch/pytorch/pull/179291
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def is_called_by_script() -> bool:
    """Tell whether the script that Python was started with called the caller.

    It did not where a profiler, a debugger or a test runs the script and goes on afterwards.
    """
    return sys._getframe(2).f_back is None


def end_process(code: int) -> None:
    """Exit without freeing every object, which takes two seconds after a recipe's imports; mypy ends like this.

    Threads are waited for and exit handlers are run, as the interpreter does. Returns if the output cannot be written,
    for the interpreter to report it.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(code)
