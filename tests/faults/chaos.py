"""Workers, a broker and a database are killed, frozen and fed garbage at random while jobs run.

    python -m tests.faults.chaos --minutes 10 --seed 7

Every job must end exactly once, with the result of an undisturbed run.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from registry.errors import RegistryError
from registry.jobs.states import TERMINAL_STATES
from registry.service import Registry
from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.faults.chained import BASE, STEPS, seed_of, steps_run, undisturbed
from tests.registry.folders import write_adapter, write_base
from tests.services import CRASH_SAFE, PostgresServer, new_postgres, settings_for
from tests.workers.started_processes import (
    CELERY,
    POLLING,
    RELAY,
    command_line,
    descendants,
    end_tree,
    send,
    start,
)

JOB_PROCESS = "workers.attempts.job_process"
#: Short, so that a frozen worker loses its lease during a test.
LEASE_S = 3.0
#: Faults have their own budgets; this one must not end a job whose process the test kills.
MAX_ATTEMPTS = 100
_PAUSE_S = (0.3, 1.5)
_FREEZE_S = (1.0, 6.0)
_GARBAGE = (b"\x00garbage{", b"5", b"[" * 20_000, b'{"body": 1, "headers": {}, "properties": {}}')


@dataclass
class Outcome:
    """The faults that were injected, and how the jobs ended."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    jobs: int = 0
    unfinished: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    steps_ratio: float = 0.0
    journal: dict[int, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        faults = f"{sum(self.faults.values())} faults {dict(self.faults)}"
        counts = {name: getattr(self, name) for name in ("unfinished", "wrong", "doubled", "orphans")}
        line = (
            f"seed {self.seed}: {self.jobs} jobs, {faults} in {self.seconds:.0f} s; {counts};"
            f" {self.steps_ratio:.2f} times the least steps"
        )
        return "\n".join([line, *(f"job {job}: {json.dumps(lines)}" for job, lines in self.journal.items())])


class Chaos:
    """One run; `seed` decides which faults come when, but not what each one hits."""

    def __init__(self, folder: Path, *, seed: int, postgres: PostgresServer | None) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self._postgres = postgres
        self._valkey = ValkeyServer(folder / "valkey")
        url = f"sqlite:///{folder / 'zoo.db'}" if postgres is None else postgres.url("postgres")
        settings = settings_for(url, home=folder / "home")
        self.settings = replace(settings, broker_url=self._valkey.url, lease_s=LEASE_S)
        self._frozen: list[tuple[float, list[int]]] = []
        self._wake_up = b""
        self._log = (folder / "log").open("ab")
        self.outcome = Outcome(seed=seed)
        self._faults: dict[str, Callable[[], object]] = {
            "worker main": self._kill_main,
            "worker tree": self._kill_tree,
            "pool child": lambda: self._kill_below("celery"),
            "job process": lambda: self._kill_below(JOB_PROCESS),
            "freeze": self._freeze,
            "relay": lambda: self._service["relay"].kill(),
            "broker": self._kill_valkey,
            "broker wiped": lambda: self._valkey.client().flushall(),
            "repeated wake-ups": self._repeat_wake_ups,
            "malformed message": self._send_garbage,
            **({} if postgres is None else {"postgres": self._crash_postgres}),
        }
        self._commands: dict[str, tuple[tuple[str, ...], Settings]] = {
            "celery": (CELERY, self.settings),
            "polling": (POLLING, replace(self.settings, broker_url=None)),
            "relay": (RELAY, self.settings),
        }
        self._service: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *, jobs: int, seconds: float, drain_s: float) -> Outcome:
        """Run the jobs under faults for `seconds`, then without faults for at most `drain_s`."""
        started = time.monotonic()
        thawing = threading.Event()
        # In a thread of its own, because this one may wait for a lock that a frozen process holds.
        thawer = threading.Thread(target=self._thaw_on, args=(thawing,), daemon=True)
        thawer.start()
        with Registry.open(self.settings) as registry:
            registry.bases.register(write_base(self._folder / "base"), name=BASE, source="hub:zoo/pico@abc")
            ids = [
                registry.jobs.submit("train", {"name": f"chained-{n}"}, max_attempts=MAX_ATTEMPTS).id
                for n in range(jobs)
            ]
            self._start_dead()
            while time.monotonic() - started < seconds and self._unfinished(registry):
                self._break_something()
                self._start_dead()
            drained_by = time.monotonic() + drain_s
            while self._unfinished(registry) and time.monotonic() < drained_by:
                time.sleep(0.5)
                self._start_dead()
            thawing.set()
            thawer.join()
            self.outcome.seconds = time.monotonic() - started
            self._stop_service()
            self._check(registry, ids)
        return self.outcome

    def close(self) -> None:
        """End everything."""
        self._stop_service()
        self._valkey.stop()
        self._log.close()
        if self._postgres is not None:
            self._postgres.stop()

    def _break_something(self) -> None:
        time.sleep(self._random.uniform(*_PAUSE_S))
        name = self._random.choice(list(self._faults))
        # A fault that hit no process does not count.
        if self._faults[name]() is not False:
            self.outcome.faults[name] += 1

    def _start_dead(self) -> None:
        """Restart ended processes, as a service manager does."""
        for name, (command, settings) in self._commands.items():
            process = self._service.get(name)
            if process is None or process.poll() is not None:
                self._service[name] = start(command, settings, log=self._log, TEST_HANDLER="chain")

    def _stop_service(self) -> None:
        for process in self._service.values():
            end_tree(process)

    def _worker(self) -> "subprocess.Popen[bytes]":
        return self._service[self._random.choice(["celery", "polling"])]

    def _kill_main(self) -> None:
        worker = self._worker()
        worker.kill()
        worker.wait()

    def _kill_tree(self) -> None:
        end_tree(self._worker())

    def _kill_below(self, what: str) -> bool:
        below = [
            child
            for worker in self._service.values()
            for child in descendants(worker.pid)
            if what in command_line(child)
        ]
        if below:
            send(self._random.choice(below), signal.SIGKILL)
        return bool(below)

    def _freeze(self) -> None:
        """Freeze a supervisor, with or without its worker's main process, but not its job process."""
        worker = self._worker()
        frozen = [pid for pid in descendants(worker.pid) if JOB_PROCESS not in command_line(pid)]
        if self._random.random() < 0.5 or not frozen:
            frozen.append(worker.pid)
        for pid in frozen:
            send(pid, signal.SIGSTOP)
        self._frozen.append((time.monotonic() + self._random.uniform(*_FREEZE_S), frozen))

    def _thaw_on(self, last: threading.Event) -> None:
        while True:
            ended = last.wait(0.1)
            for entry in list(self._frozen):
                if ended or time.monotonic() > entry[0]:
                    self._frozen.remove(entry)
                    for pid in entry[1]:
                        send(pid, signal.SIGCONT)
            if ended:
                return

    def _kill_valkey(self) -> None:
        self._valkey.kill()
        time.sleep(self._random.uniform(0.0, 1.0))
        self._valkey.start()

    def _repeat_wake_ups(self) -> bool:
        client = self._valkey.client()
        self._wake_up = client.lindex("zoo:cpu", 0) or self._wake_up
        if self._wake_up:
            client.lpush("zoo:cpu", *[self._wake_up] * 50)
        return bool(self._wake_up)

    def _send_garbage(self) -> None:
        self._valkey.client().lpush("zoo:cpu", self._random.choice(_GARBAGE))

    def _crash_postgres(self) -> None:
        assert self._postgres is not None
        self._postgres.crash()
        time.sleep(self._random.uniform(0.0, 1.5))
        self._postgres = self._postgres.restarted()

    def _unfinished(self, registry: Registry) -> bool:
        try:
            return bool(registry.jobs.list(["queued", "running"], limit=1))
        except RegistryError:  # the database is down at the moment
            return True

    def _check(self, registry: Registry, ids: list[int]) -> None:
        outcome = self.outcome
        outcome.jobs = len(ids)
        for job in map(registry.jobs.get, ids):
            events = registry.jobs.events(job.id)
            name = str(job.spec["name"])
            if job.state not in TERMINAL_STATES:
                outcome.unfinished.append(job.id)
            elif not (job.state == "succeeded" and self._is_right(registry, name, job.outcome)):
                outcome.wrong.append(job.id)
            elif [event.kind for event in events].count("succeeded") != 1:
                outcome.doubled.append(job.id)
            if job.id in (*outcome.unfinished, *outcome.wrong, *outcome.doubled):
                lines = [(event.fence, event.kind, dict(event.payload)) for event in events]
                outcome.journal[job.id] = [*lines, job.message]
        made = Counter(adapter["job_id"] for adapter in registry.adapters.list())
        outcome.doubled += [job for job, count in made.items() if count > 1 and isinstance(job, int)]
        outcome.orphans = _job_processes_of(self.settings.home)
        outcome.steps_ratio = steps_run(self.settings.home) / (STEPS * len(ids))

    def _is_right(self, registry: Registry, name: str, outcome: Any) -> bool:
        digest = undisturbed(name)
        expected = self._folder / "expected" / name
        if not expected.exists():
            write_adapter(expected, seed=seed_of(digest))
        stored = registry.materialise(registry.adapters.get(outcome["adapter"])) / "adapter_model.safetensors"
        return bool(
            outcome["digest"] == digest
            and stored.read_bytes() == (expected / "adapter_model.safetensors").read_bytes()
        )


def _job_processes_of(home: Path) -> list[str]:
    """Job processes in the home folder of this run that survive all workers."""
    time.sleep(0.5)
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        line = command_line(int(environ.parent.name))
        try:
            if JOB_PROCESS in line and str(home).encode() in environ.read_bytes():
                found.append(line)
        except OSError:
            continue
    return found


def chaos(*, seed: int, jobs: int, seconds: float, drain_s: float, on_postgres: bool) -> Outcome:
    """One run in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-chaos-"))
    postgres = new_postgres(CRASH_SAFE) if on_postgres else None
    run = Chaos(folder, seed=seed, postgres=postgres)
    try:
        return run.run(jobs=jobs, seconds=seconds, drain_s=drain_s)
    finally:
        run.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run on both databases in turn until the time is over."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=int(time.time()))
    asked = options.parse_args()
    ends_at = time.monotonic() + asked.minutes * 60
    seed, failed = asked.seed, False
    while time.monotonic() < ends_at:
        for on_postgres in (False, True):
            outcome = chaos(seed=seed, jobs=150, seconds=120, drain_s=240, on_postgres=on_postgres)
            sys.stdout.write(f"{'postgresql' if on_postgres else 'sqlite'} {outcome}\n")
            failed = failed or bool(outcome.journal or outcome.orphans or outcome.steps_ratio > 1.2)
        seed += 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
