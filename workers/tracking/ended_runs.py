"""Runs without an end whose jobs have ended: the owner was killed, and another process ended the job."""

from registry.errors import NotFound
from registry.jobs.states import TERMINAL_STATES
from registry.service import Registry
from workers.tracking.spool import Run, is_open

#: How MLflow calls the end of a job; of any other state the run is closed for now, and may be opened again.
RUN_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "queued": "KILLED"}


def close_ended_runs(registry: Registry) -> None:
    """Write the end of each run on this machine whose job has ended."""
    folder = registry.settings.home / "jobs"
    for job_folder in sorted(folder.iterdir()) if folder.exists() else ():
        if not job_folder.name.isdecimal() or not is_open(job_folder):
            continue
        try:
            job = registry.jobs.get(int(job_folder.name))
        except NotFound:
            continue
        if job.state in TERMINAL_STATES:
            run = Run(job_folder)
            run.end(RUN_STATUS[job.state])
            run.close()
