"""The relay: keeps as many wake-up messages in each queue of the broker as jobs are claimable, up to a bound.

The database says how many jobs are claimable, the broker how many messages wait; the difference is published.
So a broker that was wiped is refilled at the next poll, lost messages are replaced, and messages never pile
up behind jobs that take days. Several relays may run at once: a surplus message finds nothing to claim.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from registry.crash_points import crash_point
from registry.errors import RegistryError
from registry.service import Registry

#: The most messages that wait in one queue; an idle worker consumes one at a time.
WAKE_UPS_AHEAD = 64
RELAY_EVERY_S = 0.25
#: Name of Celery's one task.
WAKE_UP = "zoo.wake_up"


def missing_wake_ups(claimable: Mapping[str, int], waiting: Callable[[str], int]) -> dict[str, int]:
    """Queue -> messages to publish, for those queues that lack any."""
    wanted = {queue: min(count, WAKE_UPS_AHEAD) for queue, count in claimable.items()}
    missing = {queue: count - waiting(queue) for queue, count in wanted.items()}
    return {queue: count for queue, count in missing.items() if count > 0}


class Relay:
    """A loop that polls, publishes and sleeps; a broker that hangs delays this loop alone."""

    def __init__(self, registry: Registry, app: Any, *, say: Callable[[str], None]) -> None:
        self._registry = registry
        self._app = app
        self._connection: Any = None
        self._stopping = threading.Event()
        self._say = say
        self._is_failing = False

    def run(self) -> None:
        """Publish until `stop` is called."""
        while not self._stopping.wait(RELAY_EVERY_S):
            with contextlib.suppress(RegistryError):
                self.fill()
        self._disconnect()

    def stop(self) -> None:
        """End `run` at its next iteration."""
        self._stopping.set()

    def fill(self) -> int:
        """Publish the missing messages; their number. A broker that fails is tried again the next time."""
        claimable = self._registry.jobs.claimable()
        if not claimable:
            return 0
        try:
            missing = missing_wake_ups(claimable, self._waiting)
            for queue, count in missing.items():
                for _ in range(count):
                    self._publish_wake_up(queue)
                    crash_point("after_publish")
        except Exception as error:  # transports raise anything: Celery promises no common base class
            self._note(f"{type(error).__name__}: {error}")
            self._disconnect()
            return 0
        self._note(None)
        return sum(missing.values())

    def _note(self, fault: str | None) -> None:
        """Log once that the broker fails, and once that it works again."""
        if (fault is not None) != self._is_failing:
            self._say("the broker answers again" if fault is None else f"the broker does not answer: {fault}")
        self._is_failing = fault is not None

    def _waiting(self, queue: str) -> int:
        channel = self._connected().default_channel
        self._app.amqp.queues[queue].bind(channel).declare()
        # Not with passive=True: Redis has no key for an empty queue.
        declared = channel.queue_declare(queue=queue, durable=True, exclusive=False, auto_delete=False)
        return int(declared.message_count)

    def _publish_wake_up(self, queue: str) -> None:
        with self._app.amqp.Producer(self._connected(), auto_declare=False) as producer:
            self._app.send_task(WAKE_UP, args=(queue,), queue=queue, producer=producer, retry=False)

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
