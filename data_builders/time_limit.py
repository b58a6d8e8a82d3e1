"""A limit on the time of work that files of others decide: a chat template can loop for ever, a regex can backtrack."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Raise ValueError inside a block that takes longer.

    It works by the alarm signal, which interrupts templates and regexes alike. Where there is none (Windows, threads
    other than the main one), the block is not limited.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise ValueError(f"{message} within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
