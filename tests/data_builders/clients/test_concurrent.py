"""Tests of bounded concurrency and of the outcome of each call."""

import time

import pytest

from data_builders.clients.concurrent import map_concurrent
from data_builders.outcomes import ServerUnreachable, TemporaryFailure


def test_calls_in_flight_are_bounded_by_the_consumer():
    """Prevents: a thousand requests at once before one GPU, or answers that fill the memory while a disk is slow."""
    running, most, results = [], [], {}

    def call(item):
        running.append(item)
        time.sleep(0.01)
        if item % 5 == 4:
            raise ValueError(f"no {item}")
        if item % 7 == 6:
            raise TemporaryFailure(f"later {item}")
        return item * 2

    for item, result in map_concurrent(call, range(20), in_flight=3):
        most.append(len(running) - len(results))
        results[item] = result
    assert len(results) == 20
    assert max(most) <= 3 + 1
    assert results[3] == 6
    assert str(results[4]) == "no 4"
    assert isinstance(results[6], TemporaryFailure)


def test_an_unreachable_server_stops_all_calls():
    """Prevents: 67,000 rows reported one by one for a server that was not started."""

    def unreachable(item):
        raise ServerUnreachable("nobody there")

    with pytest.raises(ServerUnreachable):
        list(map_concurrent(unreachable, range(1000), in_flight=3))
