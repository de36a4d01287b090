"""`zoo ui`: MLflow's web pages with the runs of this installation."""

import os
import sys
from collections.abc import Mapping

import click

from registry.settings import Settings
from workers.tracking.shipping import NO_TRACKING, pending_folders, ship_pending

#: Features of MLflow that would run code for anyone who can reach it, and its telemetry.
_HARDENED = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
#: Time limit for shipping all pending runs.
_SHIPPING_LIMIT_S = 120.0


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def command(port: int) -> None:
    """Browse every run in MLflow, on this machine only.

    Example: zoo ui --port 5001
    """
    settings = Settings.from_env(os.environ)
    if settings.mlflow_tracking_uri == NO_TRACKING:
        raise click.UsageError("MLFLOW_TRACKING_URI is none, so runs are kept nowhere; unset it, then repeat")
    _ship_pending(settings)
    if settings.mlflow_tracking_uri.startswith(("http://", "https://")):
        click.echo(f"runs are kept by an MLflow server: open {settings.mlflow_tracking_uri}")
        return
    click.echo(f"http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chdir(settings.home)  # MLflow creates folders in its working folder
    sys.stderr.flush()
    # Replaces this process, so that a signal that ends the command ends the server.
    os.execve(sys.executable, server_command(settings, port=port), server_environment(os.environ))  # noqa: S606


def server_command(settings: Settings, *, port: int) -> list[str]:
    """The command that starts MLflow's server so that only this machine's user and browser reach it."""
    names = (f"127.0.0.1:{port}", f"localhost:{port}")
    options = {
        "--backend-store-uri": settings.mlflow_tracking_uri,
        "--default-artifact-root": (settings.home / "mlflow-artifacts").as_uri(),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        # The defaults also allow every private address, and pages of any local port.
        "--allowed-hosts": ",".join(names),
        "--cors-allowed-origins": ",".join(f"http://{name}" for name in names),
    }
    return [
        *(sys.executable, "-P", "-m", "mlflow", "server"),
        *(part for option in options.items() for part in option),
    ]


def server_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with MLflow's unneeded features switched off."""
    return {**environ, **_HARDENED}


def _ship_pending(settings: Settings) -> None:
    """Ship the runs that MLflow has not received."""
    count = len(pending_folders(settings))
    if count == 0:
        return
    click.echo(f"shipping {count} runs that MLflow does not have yet", err=True)
    complaint = ship_pending(settings, timeout_s=_SHIPPING_LIMIT_S)
    if complaint is not None:
        click.echo(f"not all of them were accepted: {complaint}", err=True)
