"""A worker's one slot, between its threads and the children it forks."""

import os
import signal

import pytest

from workers.broker.slot import forget_slot, slot_of


def test_a_slot_is_held_by_one() -> None:
    with slot_of(os.getpid()) as is_free, slot_of(os.getpid()) as is_free_besides:
        assert (is_free, is_free_besides) == (True, False)
    forget_slot(os.getpid())


@pytest.mark.processes
def test_a_child_that_was_forked_while_the_slot_was_held_does_not_keep_it() -> None:
    with slot_of(os.getpid()):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with slot_of(os.getpid()) as is_free:
            assert is_free
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        forget_slot(os.getpid())
