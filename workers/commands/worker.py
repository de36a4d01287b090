"""`zoo worker`: take queued jobs, one at a time, until told to end."""

import os

import click

from registry.settings import Settings
from workers.placement import QUEUES


@click.command()
@click.option(
    "--queue",
    "queues",
    multiple=True,
    type=click.Choice(QUEUES),
    help="Take jobs of this queue; gpu where there is one, and cpu, if left out.",
)
@click.option("--gpu", help="The GPU its jobs may use, as CUDA_VISIBLE_DEVICES names it: 0, or a UUID.")
@click.option("--events", is_flag=True, help="Tell monitors such as Flower of hints; with a broker only.")
@click.option("--log-level", type=click.Choice(["info", "warning"]), default="info", show_default=True)
def command(queues: tuple[str, ...], gpu: str | None, events: bool, log_level: str) -> None:
    """Run queued jobs, each in a process of its own; start one worker for each GPU.

    With ZOO_BROKER_URL it is a Celery worker that is told of jobs; without, it asks the database. Ctrl-C or
    SIGTERM ends it: its job saves a checkpoint and is given back, for another worker to go on.

    Example: zoo worker --queue gpu --gpu 0
    """
    from workers.gpus import visible_gpus
    from workers.serving import serve_from_database, serve_on_hints

    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    served = queues or (QUEUES if visible_gpus(os.environ) else ("cpu",))
    if "gpu" not in served:
        # A job of the cpu queue must not take a GPU that other workers count on.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    settings = Settings.from_env(os.environ)
    if settings.broker_url is not None:
        serve_on_hints(settings, served, log_level=log_level, events=events)
    else:
        serve_from_database(settings, served, say=_say if log_level == "info" else lambda _: None)


def _say(text: str) -> None:
    click.echo(text, err=True)
