"""A worker from start to end, woken up by a broker's messages."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from registry.service import Registry
from registry.settings import Settings
from workers.errors import BrokerUnusable


@contextmanager
def needing_celery() -> Iterator[None]:
    """A block in which Celery, an optional dependency, is imported.

    Raises:
        BrokerUnusable: Celery or the broker's client is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise BrokerUnusable(
            f"ZOO_BROKER_URL is set, but {missing} is not installed;"
            " install it with: pip install 'adapter-zoo[broker]', or unset ZOO_BROKER_URL"
        ) from error


def serve_on_wake_ups(
    settings: Settings, queues: Sequence[str], *, app: str, log_level: str, events: bool
) -> int:
    """Run a worker of the Celery application in the module `app` until SIGTERM or Ctrl-C.

    Returns Celery's exit code, or 0 if it was asked to end.

    Raises:
        BrokerUnusable: Celery is not installed.
        DatabaseUnreachable: the database does not answer; raised at the start, not with the first job.
    """
    with needing_celery():
        from celery import signals
        from celery.bin.celery import celery
    Registry.open(settings).close()
    name = f"{'-'.join(queues)}-{os.getpid()}@%h"
    quick = ("--without-mingle", "--without-gossip", "--concurrency", "1", "--pool", "prefork")
    monitored = ("--task-events",) if events else ()
    asked: list[object] = []

    def note(how: object = None, **_: object) -> None:
        asked.append(how)

    signals.worker_shutting_down.connect(note)
    # Not `Celery.worker_main`, which drops the worker's exit code.
    status = celery.main(
        [
            *("--app", app, "worker", "--loglevel", log_level, *quick, *monitored),
            *("--queues", ",".join(queues), "--hostname", name),
        ],
        standalone_mode=False,
    )
    # Celery's exit code after Ctrl-C is that of a failure.
    return 0 if asked else int(status or 0)
