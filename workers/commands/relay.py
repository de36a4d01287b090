"""`zoo relay`: wake workers up for queued jobs, in a process of its own."""

import os
import signal
from typing import Any

import click

from registry.settings import Settings


@click.command()
def command() -> None:
    """Publish wake-up messages for queued jobs and free the jobs of dead workers on this host.

    Every worker does both; a relay of its own is for a deployment whose workers come and go.

    Example: zoo relay
    """
    from registry.service import Registry
    from workers.broker.relay import Relay
    from workers.broker.serving import needing_celery
    from workers.worker.identity import Reconciling

    with needing_celery():
        from workers.app import app
    settings = Settings.from_env(os.environ)
    with Registry.open(settings) as registry, Reconciling(registry):
        relay = Relay(registry, app, say=lambda text: click.echo(text, err=True))

        def stop(*_: Any) -> None:
            relay.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        relay.run()
