"""`zoo worker`: take queued jobs, one at a time, until it is asked to end."""

import os

import click

from registry.settings import Settings
from workers.broker.serving import needing_celery, serve_on_wake_ups
from workers.processes.gpus import offered, visible_gpus
from workers.requests.placement import QUEUES
from workers.worker.loop import serve_from_database


@click.command()
@click.option(
    "--queue",
    "queues",
    multiple=True,
    type=click.Choice(QUEUES),
    help="Run jobs of this queue; if left out: cpu, and gpu if a GPU is available.",
)
@click.option(
    "--gpu", help="The GPUs its jobs may use, as CUDA_VISIBLE_DEVICES names them: 0, or 0,1, or UUIDs."
)
@click.option(
    "--events",
    is_flag=True,
    help="Send Celery's events for monitors such as Flower; with a broker only.",
)
@click.option("--log-level", type=click.Choice(["info", "warning"]), default="info", show_default=True)
def command(queues: tuple[str, ...], gpu: str | None, events: bool, log_level: str) -> int:
    """Run queued jobs, each in a process of its own; start one worker for each GPU.

    With ZOO_BROKER_URL it is a Celery worker that wake-up messages start; without, it asks the database.
    Ctrl-C or SIGTERM ends it: its job saves a checkpoint and is given back, for another worker to go on.

    Example: zoo worker --queue gpu --gpu 0
    """

    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = offered(gpu)
    served = queues or (QUEUES if visible_gpus(os.environ) else ("cpu",))
    settings = Settings.from_env(os.environ)
    if settings.broker_url is not None:
        with needing_celery():
            import workers.app  # so that Celery finds it by name, whatever the current folder is
        return serve_on_wake_ups(
            settings, served, app=workers.app.__name__, log_level=log_level, events=events
        )
    serve_from_database(settings, served, say=_say if log_level == "info" else lambda _: None)
    return 0


def _say(text: str) -> None:
    click.echo(text, err=True)
