"""Calls to engines and servers: bounded concurrency, and failures that do not reject a row."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from data_builders.outcomes import ServerUnreachable, TemporaryFailure

Item = TypeVar("Item")
Result = TypeVar("Result")
LOST_IN_A_ROW = 8


def map_concurrent(
    function: Callable[[Item], Result], items: Iterable[Item], in_flight: int
) -> Iterator[tuple[Item, Result | ValueError | TemporaryFailure]]:
    """Yield results in completion order, with at most `in_flight` calls started and not yet consumed.

    A server that refuses or drops the calls for one row alone (a content filter, say) costs this row: its
    ServerUnreachable becomes a TemporaryFailure as soon as another call succeeds.

    Yields:
        item and result, or the item's own ValueError or TemporaryFailure.

    Raises:
        ServerUnreachable: LOST_IN_A_ROW calls in a row were lost, or all of them.
        any other error of `function`.
    """
    lost: list[tuple[Item, ServerUnreachable]] = []
    answered = False
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
                    if lost and not answered:
                        raise lost[0][1]
                    yield from pass_on(lost)
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    item = running.pop(future)
                    error = future.exception()
                    if isinstance(error, ServerUnreachable):
                        lost.append((item, error))
                        if len(lost) == LOST_IN_A_ROW:
                            raise error
                        continue
                    answered = True
                    yield from pass_on(lost)
                    if error is None:
                        yield item, future.result()
                    elif isinstance(error, (ValueError, TemporaryFailure)):
                        yield item, error
                    else:
                        raise error
        finally:
            for future in running:
                future.cancel()


def pass_on(lost: list[tuple[Item, ServerUnreachable]]) -> Iterator[tuple[Item, TemporaryFailure]]:
    """Empty a list of lost calls, whose server answers others."""
    while lost:
        item, error = lost.pop(0)
        yield item, TemporaryFailure(str(error))
