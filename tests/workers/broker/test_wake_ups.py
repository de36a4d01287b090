"""The setup of a Celery worker's main process."""

from pathlib import Path

import pytest

from tests.forks import order_of

pytestmark = pytest.mark.processes


def test_the_main_process_of_a_celery_worker_guards_its_forks(migrated_sqlite: Path, tmp_path: Path) -> None:
    script = """
from dataclasses import replace
from celery import signals
from workers.broker.wake_ups import make_app

settings = settings_for(sys.argv[1], home=Path(sys.argv[2]))
# Nothing listens there, but the worker's threads start nevertheless.
app = make_app(replace(settings, broker_url="redis://127.0.0.1:1/0"))
class Worker:
    pass
worker = Worker()
worker.app = app
for step in app.steps["worker"]:
    step(worker).start(worker)

def connections():
    return sum("zoo.db" in os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir())

# The worker's own threads have connected by now.
while not connections():
    time.sleep(0.05)
order.append(f"{fork(connections)} in the child")
order.remove("forked")
with Database(settings) as database:
    def work():
        with database.read():
            inside.set()
            time.sleep(0.3)
            order.append("read")
    beside(work)
    inside.wait()
    fork()
signals.worker_shutdown.send(sender=None)
"""
    assert order_of(script, f"sqlite:///{migrated_sqlite}", str(tmp_path)) == "0 in the child, read, forked"
