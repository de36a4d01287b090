"""Keeps forks and transactions apart in a process whose threads use the database.

A child has the locks of its parent's threads, without the threads: one that was forked while another
thread was inside SQLite waits forever at its own first call of SQLite. It also has the parent's open
connections: SQLite, which keeps file locks by process, would take the parent's for its own
(https://www.sqlite.org/howtocorrupt.html, section 2.6). So a process forks while it has neither.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: A database that does not answer must not keep a process from forking: its calls end after 10 s of waiting
#: for a lock, or 20 s without an answer.
_LIMIT_S = 20.0


class ForkGate:
    """A gate that is open to any number of transactions, or closed for one fork."""

    def __init__(self, *, limit_s: float = _LIMIT_S) -> None:
        self._limit_s = limit_s
        self._disconnect: Callable[[], None] | None = None
        self._renew()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block during which no fork begins; waits for a fork that has begun."""
        if self._is_inside():
            # To wait inside the transaction that a fork waits for would deadlock.
            yield
            return
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            self._inside.add(thread)
        try:
            yield
        finally:
            with self._changed:
                self._inside.discard(thread)
                self._changed.notify_all()

    def guard_forks(self, disconnect: Callable[[], None] | None = None) -> None:
        """Make `os.fork` in this process wait for the transactions of its other threads.

        `disconnect` is called before each fork, to close the remaining connections; it must begin no
        transaction.
        """
        self._disconnect = disconnect
        os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._renew)

    def _close(self) -> None:
        with self._changed:
            self._forks += 1
            idle = self._changed.wait_for(lambda: not self._inside - {threading.get_ident()}, self._limit_s)
            if idle and self._disconnect is not None:
                self._disconnect()

    def _open(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def _renew(self) -> None:
        # Also in the child, because another thread of the parent may have held the condition's lock.
        self._changed = threading.Condition()
        self._inside: set[int] = set()
        self._forks = 0

    def _is_inside(self) -> bool:
        return threading.get_ident() in self._inside


#: One for the process, because a process forks as a whole.
FORK_GATE = ForkGate()
