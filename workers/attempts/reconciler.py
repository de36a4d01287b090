"""Cleans up after dead processes: their leases, jobs that may not be claimed again, and lost workers.

Any number of processes may run it at once: every change is a compare-and-set.
"""

from registry.service import Registry
from workers.processes.owner import is_dead


def reconcile(registry: Registry) -> None:
    """Free the jobs of dead owners on this host, end those that may not be claimed, remove dead workers.

    For owners on other hosts, only their leases count.
    """
    for job in registry.jobs.list(["running"], limit=None):
        if is_dead(job.owner):
            registry.jobs.expire(job.id, fence=job.fence)
    registry.jobs.sweep()
    for worker in registry.workers.list():
        if is_dead(worker.name):
            registry.workers.remove(worker.name)
