"""A job in several processes ends as one: whichever dies, none survives, and the reason is right."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from registry.entities import Job
from registry.service import Registry
from registry.settings import Settings
from tests.workers.started_processes import end_tree, job_processes, send, wait_until
from workers.attempts.process_group import ProcessEnd, ProcessGroup, deciding_end, member_environment
from workers.attempts.results import Result
from workers.attempts.runner import job_folder, run_here
from workers.attempts.supervisor import order_for
from workers.processes import gpus
from workers.processes.parent_watchdog import EXIT_ABANDONED, end_like
from workers.tracking.spool import read_lines

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]
SIZE = 2

DONE = Result(state="succeeded", reason="ok")
STOPPED = Result(state="cancelled", reason="cancelled")
ERROR = Result(state="failed", reason="error", message="connection closed by peer")
OUT_OF_MEMORY = Result(state="failed", reason="cuda_oom")


def handler(name: str) -> dict[str, str]:
    return {"train": f"tests.workers.group_handlers:{name}"}


@pytest.fixture
def job(registry: Registry) -> Job:
    return registry.jobs.submit("train", {}, processes=SIZE)


def start_elsewhere(settings: Settings, job: Job) -> "subprocess.Popen[bytes]":
    arguments = [str(settings.home), settings.database_url, str(job.id), "group_handlers:wait_together"]
    return subprocess.Popen([sys.executable, "-m", "tests.workers.run_job", *arguments], cwd=ROOT)


class Running:
    """A job whose supervisor is a process of its own; all its processes have started."""

    def __init__(self, registry: Registry, settings: Settings, job: Job) -> None:
        self.supervisor = start_elsewhere(settings, job)
        folder = job_folder(registry, job.id)
        said = [folder / f"pid-{index}" for index in range(SIZE)]
        wait_until(
            lambda: all(path.exists() and path.read_text() for path in said), what="all processes wait"
        )
        self.members = [int(path.read_text()) for path in said]
        (self.starter,) = set(job_processes(self.supervisor.pid)) - set(self.members)

    def wait_until_gone(self) -> None:
        for pid in (self.starter, *self.members):
            wait_until(lambda pid=pid: _is_gone(pid), what=f"process {pid} is gone")  # type: ignore[misc]


@pytest.fixture
def running(registry: Registry, settings: Settings, job: Job) -> Iterator[Running]:
    started = Running(registry, settings, job)
    yield started
    end_tree(started.supervisor)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_LEASE_S", "2")


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# ---------------------------------------------------------------------- what they do together


def test_the_first_process_reports_for_all(registry: Registry, job: Job) -> None:
    seen: list[Mapping[str, Any]] = []
    ended = run_here(registry, job.id, on_progress=seen.append, handlers=handler("share"))
    assert (ended.state, ended.outcome) == ("succeeded", {"index": 0, "processes": SIZE})
    assert seen == [{"phase": "training", "step": 0, "total": 1}]
    folder = job_folder(registry, job.id)
    actions = [line.record["action"] for line in read_lines(folder, offset=0)]
    assert actions == ["spool", "begin", "metrics", "artifact", "metrics", "end"]
    assert not (folder / "rendezvous").exists()


def test_each_process_sees_the_gpus_of_the_job_and_holds_their_locks(
    registry: Registry, job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "nothing")  # this machine may have other GPUs
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    ended = run_here(registry, job.id, handlers=handler("share"))
    assert ended.state == "succeeded"
    for index in range(SIZE):
        seen = json.loads((job_folder(registry, job.id) / f"seen-{index}.json").read_text())
        assert seen == {
            "LOCAL_RANK": str(index),
            "WORLD_SIZE": str(SIZE),
            "CUDA_VISIBLE_DEVICES": "4,5",
            "held": ["gpu-4.lock", "gpu-5.lock"],
        }


def test_more_processes_than_gpus_fail_as_a_bad_request(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-4")
    asked = registry.jobs.submit("train", {}, processes=2)
    ended = run_here(registry, asked.id, handlers=handler("share"))
    assert (ended.state, ended.reason) == ("failed", "bad_input")
    assert "processes must be at most 1" in (ended.message or "")


def test_asked_to_end_the_first_process_saves_and_all_end(
    registry: Registry, job: Job, running: Running
) -> None:
    running.supervisor.send_signal(signal.SIGINT)
    assert running.supervisor.wait(timeout=60) == 130
    running.wait_until_gone()
    ended = registry.jobs.get(job.id)
    assert (ended.state, ended.reason) == ("cancelled", "cancelled")
    assert (job_folder(registry, job.id) / "checkpoint").read_text() == "saved by 0"


# ---------------------------------------------------------------------- what ends them


@pytest.mark.parametrize("index", range(SIZE))
def test_a_killed_process_ends_the_attempt_and_the_next_one_goes_on(
    registry: Registry, job: Job, running: Running, index: int
) -> None:
    (job_folder(registry, job.id) / "rendezvous" / "1").touch()
    send(running.members[index], signal.SIGKILL)
    assert running.supervisor.wait(timeout=60) == 0
    running.wait_until_gone()
    ended = registry.jobs.get(job.id)
    assert (ended.state, ended.fence, ended.attempt) == ("succeeded", 2, 2)
    reasons = [event.payload.get("reason") for event in registry.jobs.events(job.id)]
    assert [reason for reason in reasons if reason] == ["poison", "ok"]
    assert f"process {index} ended without a result, exit code -9" in Path(ended.log_path or "").read_text()


def test_a_killed_job_process_takes_its_group_with_it(registry: Registry, job: Job, running: Running) -> None:
    send(running.starter, signal.SIGKILL)
    assert running.supervisor.wait(timeout=60) == 0
    running.wait_until_gone()
    assert registry.jobs.get(job.id).fence == 2


def test_a_killed_supervisor_leaves_no_process(registry: Registry, job: Job, running: Running) -> None:
    running.supervisor.kill()
    running.supervisor.wait()
    running.wait_until_gone()
    ended = run_here(registry, job.id, handlers=handler("wait_together"))
    assert (ended.state, ended.lost_attempts) == ("succeeded", 1)


@pytest.mark.usefixtures("short_lease")
def test_a_group_whose_job_process_is_frozen_ends_with_the_lease(
    registry: Registry, job: Job, running: Running
) -> None:
    send(running.starter, signal.SIGSTOP)
    for pid in running.members:
        wait_until(lambda pid=pid: _is_gone(pid), what=f"process {pid} is gone")  # type: ignore[misc]
    send(running.starter, signal.SIGCONT)
    assert running.supervisor.wait(timeout=60) == 0
    assert registry.jobs.get(job.id).state == "succeeded"


def test_processes_that_work_for_longer_than_the_lease_keep_it(registry: Registry, job: Job) -> None:
    longer = {"train": "tests.workers.handlers:outlast_the_lease"}
    ended = run_here(registry, job.id, handlers=longer, lease_s=2.0)
    assert (ended.state, ended.fence) == ("succeeded", 1)


def test_late_processes_get_the_lease_of_that_moment(
    registry: Registry, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = job_folder(registry, job.id)
    folder.mkdir(parents=True)
    (folder / "log.txt").touch()
    now = time.monotonic()
    order = order_for(job, folder, registry.settings, until=now - 1, handlers=handler("share"))
    group = ProcessGroup()
    group.extend_to(now + 600)
    end = group.run(order, gpu_locks=[], stop_requested=lambda: False, send=lambda _: None)
    assert end.result is not None
    assert (end.result.state, end.result.message) == ("succeeded", None)


# ---------------------------------------------------------------------- the reason


def test_one_process_out_of_memory_halves_the_micro_batch_of_all(registry: Registry, job: Job) -> None:
    ended = run_here(registry, job.id, handlers=handler("need_less_memory_in_one"))
    assert (ended.state, ended.outcome, ended.memory_cuts) == ("succeeded", {"size": 4}, 1)


def test_a_killed_process_is_the_reason_not_its_peers_errors(registry: Registry) -> None:
    job = registry.jobs.submit("train", {}, processes=SIZE, max_attempts=1)
    ended = run_here(registry, job.id, handlers=handler("die_and_be_missed"))
    assert (ended.state, ended.reason) == ("failed", "poison")


def test_an_error_of_any_process_fails_the_job_with_its_message(registry: Registry, job: Job) -> None:
    ended = run_here(registry, job.id, handlers=handler("fail_in_one"))
    assert (ended.state, ended.reason) == ("failed", "error")
    assert ended.message == "ZeroDivisionError: division by zero in process 1"
    assert not (job_folder(registry, job.id) / "noticed").exists()


@pytest.mark.parametrize(
    ("ends", "deciding"),
    [
        ([], None),
        ([(0, DONE, None)], None),
        ([(1, DONE, 0)], None),
        ([(1, DONE, 0), (0, DONE, 0)], 0),
        ([(1, STOPPED, 0)], None),
        ([(1, STOPPED, 0), (0, STOPPED, 0)], 0),
        ([(0, DONE, 0), (1, DONE, 1)], 0),
        ([(0, ERROR, None)], None),
        ([(0, ERROR, None), (1, None, -9)], 1),
        ([(0, ERROR, None), (1, OUT_OF_MEMORY, None)], 1),
        ([(1, OUT_OF_MEMORY, None)], 1),
        ([(1, None, 0)], 1),
    ],
)
def test_which_end_decides(ends: list[tuple[int, Result | None, int | None]], deciding: int | None) -> None:
    came = [ProcessEnd(index=index, result=result, exit_code=code) for index, result, code in ends]
    found = deciding_end(came, have_settled=False)
    assert (found.index if found else None) == deciding


def test_of_errors_alone_the_first_decides_in_the_end() -> None:
    later = ProcessEnd(index=0, result=ERROR, exit_code=None)
    first = ProcessEnd(index=1, result=ERROR, exit_code=None)
    assert deciding_end([first, later], have_settled=True) == first


# ---------------------------------------------------------------------- what they are given


def test_a_process_gets_its_index_and_uses_the_loopback_alone() -> None:
    environ = member_environment({"OMP_NUM_THREADS": "8", "ZOO_HOME": "/zoo"}, index=1, processes=3)
    assert (environ["RANK"], environ["LOCAL_RANK"], environ["WORLD_SIZE"]) == ("1", "1", "3")
    assert (environ["OMP_NUM_THREADS"], environ["MKL_NUM_THREADS"]) == ("2", "2")
    assert environ["GLOO_SOCKET_IFNAME"] == environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert environ["ZOO_HOME"] == "/zoo"
    assert member_environment({"OMP_NUM_THREADS": "2"}, index=0, processes=4)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("exit_code", [-signal.SIGKILL, -signal.SIGTERM, 3, EXIT_ABANDONED])
def test_a_job_process_ends_as_its_member_did(exit_code: int) -> None:
    code = f"from {end_like.__module__} import end_like\nend_like({exit_code})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == exit_code
