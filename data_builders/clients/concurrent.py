"""Calls to engines and servers: what a failure means, and how many run at a time."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class TemporaryFailure(RuntimeError):
    """A call that was tried again and again and may work another day; the row is reported, not dropped."""


class ServerUnreachable(RuntimeError):
    """Nobody answers at all: the stage stops, and a second run goes on from there."""


def map_concurrent(
    function: Callable[[Item], Result], items: Iterable[Item], in_flight: int
) -> Iterator[tuple[Item, Result | ValueError | TemporaryFailure]]:
    """Results as they come, with at most `in_flight` calls begun and not yet taken: the caller's pace is the limit.

    Yields:
        item and result, or the ValueError or TemporaryFailure that is the item's own; any other error is raised.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(max_workers=in_flight) as pool:
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                while len(running) < in_flight:
                    try:
                        item = next(waiting)
                    except StopIteration:
                        break
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    item = running.pop(future)
                    error = future.exception()
                    if error is None:
                        yield item, future.result()
                    elif isinstance(error, (ValueError, TemporaryFailure)):
                        yield item, error
                    else:
                        raise error
        finally:
            for future in running:
                future.cancel()
