"""Calls to engines and servers: bounded concurrency, and failures that do not reject a row."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from data_builders.outcomes import TemporaryFailure

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_concurrent(
    function: Callable[[Item], Result], items: Iterable[Item], in_flight: int
) -> Iterator[tuple[Item, Result | ValueError | TemporaryFailure]]:
    """Yield results in completion order, with at most `in_flight` calls started and not yet consumed.

    Yields:
        item and result, or the item's own ValueError or TemporaryFailure.

    Raises:
        any other error of `function`.
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
