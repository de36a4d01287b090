"""Puts right what dead processes left in the database: leases, jobs that nobody may claim, lost workers.

Safe to run in any number of processes at once: every change is a compare-and-set.
"""

from registry.service import Registry
from workers.processes.owner import is_dead


def reconcile(registry: Registry) -> None:
    """Free the jobs of dead owners on this host, end those that may not be claimed, forget dead workers.

    Owners on other hosts are judged by their leases alone.
    """
    for job in registry.jobs.list(["running"], limit=None):
        if is_dead(job.owner):
            registry.jobs.expire(job.id, fence=job.fence)
    registry.jobs.sweep()
    for worker in registry.workers.list():
        if is_dead(worker.name):
            registry.workers.remove(worker.name)
