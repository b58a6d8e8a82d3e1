"""Tests of locks among processes that share a folder."""

import threading

from data_builders.storage.atomic import exclusive


def test_a_lock_is_held_by_one_and_passed_on(tmp_path):
    """Prevents: machines with one cache_dir that start together and delete each other's unfinished selection."""
    entered = threading.Event()

    def enter():
        with exclusive(tmp_path / "shared" / "selection.lock"):
            entered.set()

    other = threading.Thread(target=enter)
    with exclusive(tmp_path / "shared" / "selection.lock"):
        other.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    other.join()
