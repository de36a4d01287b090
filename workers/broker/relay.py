"""The relay: keeps as many hints in each queue of the broker as there are jobs to take, up to a bound.

The database says what is to be done, the broker how many hints wait; the difference is published. So a broker
that was wiped is filled again at the next look, hints that were lost are replaced, and hints never pile up
behind jobs that take days. Safe to run many: too many hints find nothing to claim.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from registry.crash_points import crash_point
from registry.errors import RegistryError
from registry.service import Registry

#: Hints that wait in a queue at most; workers that are free take one each.
HINTS_AHEAD = 64
RELAY_EVERY_S = 0.25
#: The one task there is.
LOOK = "zoo.look"


def missing_hints(claimable: Mapping[str, int], waiting: Callable[[str], int]) -> dict[str, int]:
    """Queue -> hints to publish, where any are missing."""
    wanted = {queue: min(count, HINTS_AHEAD) for queue, count in claimable.items()}
    missing = {queue: count - waiting(queue) for queue, count in wanted.items()}
    return {queue: count for queue, count in missing.items() if count > 0}


class Relay:
    """Looks, publishes, waits; a broker that hangs costs it its socket timeouts, and nobody else anything."""

    def __init__(self, registry: Registry, app: Any, *, say: Callable[[str], None]) -> None:
        self._registry = registry
        self._app = app
        self._connection: Any = None
        self._stopping = threading.Event()
        self._say = say
        self._is_failing = False

    def run(self) -> None:
        """Go on until `stop`."""
        while not self._stopping.wait(RELAY_EVERY_S):
            with contextlib.suppress(RegistryError):
                self.fill()
        self._disconnect()

    def stop(self) -> None:
        """End `run` at its next turn."""
        self._stopping.set()

    def fill(self) -> int:
        """Publish what is missing; how many hints that were. A broker that fails is asked again next time."""
        claimable = self._registry.jobs.claimable()
        if not claimable:
            return 0
        try:
            missing = missing_hints(claimable, self._waiting)
            for queue, count in missing.items():
                for _ in range(count):
                    self._publish(queue)
                    crash_point("after_publish")
        except Exception as error:  # whatever a transport raises: Celery promises no common root
            self._note(f"{type(error).__name__}: {error}")
            self._disconnect()
            return 0
        self._note(None)
        return sum(missing.values())

    def _note(self, fault: str | None) -> None:
        """Say that the broker fails, or works again, once each."""
        if (fault is not None) != self._is_failing:
            self._say("the broker answers again" if fault is None else f"the broker does not answer: {fault}")
        self._is_failing = fault is not None

    def _waiting(self, queue: str) -> int:
        channel = self._connected().default_channel
        self._app.amqp.queues[queue].bind(channel).declare()
        # Not passively: Redis has no key for a queue that is empty.
        declared = channel.queue_declare(queue=queue, durable=True, exclusive=False, auto_delete=False)
        return int(declared.message_count)

    def _publish(self, queue: str) -> None:
        with self._app.amqp.Producer(self._connected(), auto_declare=False) as producer:
            self._app.send_task(LOOK, args=(queue,), queue=queue, producer=producer, retry=False)

    def _connected(self) -> Any:
        if self._connection is None:
            self._connection = self._app.connection_for_write()
            self._connection.ensure_connection(max_retries=0, timeout=1)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.release()
