"""The control of the chaos run: the same work and faults on Celery's own guarantees, which must fail.

    python -m benchmarks.stock_celery --seconds 60 --seed 7

Celery's strongest settings: late acknowledgement, rejection when a worker is lost, a prefetch of one, a short
visibility timeout, a broker that stores everything on disk. Exits with 1 if nothing is lost or doubled.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from celery import Celery

from tests.brokers import ValkeyServer
from tests.workers.started_processes import ROOT, descendants, end_tree, send

STEPS, STEP_S = 30, 0.03
VISIBILITY_TIMEOUT_S = 8

app = Celery("stock", broker=os.environ.get("STOCK_BROKER", "memory://"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT_S, "socket_timeout": 5},
)


@app.task(name="stock.chain")  # type: ignore[untyped-decorator]
def chain(name: str) -> None:
    """Work in steps, then write a line to a file as the effect."""
    for _ in range(STEPS):
        time.sleep(STEP_S)
    with Path(os.environ["STOCK_EFFECTS"]).open("a") as effects:
        effects.write(f"{name}\n")


def run(*, jobs: int, seconds: float, drain_s: float, seed: int) -> str:
    """Run the jobs under faults; what was lost and what was done twice."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-stock-"))
    valkey = ValkeyServer(folder / "valkey", durable=True)
    effects = folder / "effects"
    effects.touch()
    environment = {**os.environ, "STOCK_BROKER": valkey.url, "STOCK_EFFECTS": str(effects)}
    app.conf.broker_url = valkey.url
    random_ = random.Random(seed)
    faults: Counter[str] = Counter()
    frozen: list[tuple[float, int]] = []
    workers: list[subprocess.Popen[bytes]] = []

    def started(number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.stock_celery", "worker", "-c", "1"]
        command += ["--without-mingle", "--without-gossip", "-n", f"stock{number}-{time.time_ns()}@%h"]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet)

    def tend() -> None:
        for number, worker in enumerate(workers):
            if worker.poll() is not None:
                workers[number] = started(number)
        for entry in list(frozen):
            if time.monotonic() > entry[0]:
                frozen.remove(entry)
                send(entry[1], signal.SIGCONT)

    def done() -> Counter[str]:
        return Counter(effects.read_text().split())

    try:
        for number in range(jobs):
            chain.delay(f"job{number}")
        workers += [started(number) for number in range(2)]
        began = time.monotonic()
        while time.monotonic() - began < seconds and len(done()) < jobs:
            time.sleep(random_.uniform(0.3, 1.5))
            tend()
            fault, worker = (
                random_.choice(["tree", "main", "child", "freeze", "broker"]),
                random_.choice(workers),
            )
            below = descendants(worker.pid)
            if fault == "tree":
                end_tree(worker)
            elif fault == "main":
                worker.kill()
                worker.wait()
            elif fault == "broker":
                valkey.kill()
                valkey.start()
            elif below:
                victim = random_.choice(below)
                send(victim, signal.SIGKILL if fault == "child" else signal.SIGSTOP)
                if fault == "freeze":
                    frozen.append((time.monotonic() + random_.uniform(1, 6), victim))
            faults[fault] += 1
        ends_at = time.monotonic() + drain_s
        while len(done()) < jobs and time.monotonic() < ends_at:
            time.sleep(0.5)
            tend()
        time.sleep(2 * VISIBILITY_TIMEOUT_S)
        found = done()
        lost, doubled = jobs - len(found), sum(count - 1 for count in found.values())
        what = f"seed {seed}: {jobs} jobs, {sum(faults.values())} faults {dict(faults)}"
        return f"{what}: {lost} lost, {doubled} doubled"
    finally:
        for worker in workers:
            end_tree(worker)
        valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """One run."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--jobs", type=int, default=40)
    options.add_argument("--seed", type=int, default=7)
    asked = options.parse_args()
    said = run(jobs=asked.jobs, seconds=asked.seconds, drain_s=60.0, seed=asked.seed)
    sys.stdout.write(f"{said}\n")
    return int("0 lost, 0 doubled" in said)


if __name__ == "__main__":
    sys.exit(main())
