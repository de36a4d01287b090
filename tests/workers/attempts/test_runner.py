"""Jobs in real child processes: however parent, child or disk fail, the row says so; no process is left."""

import errno
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from registry.commands.jobs import command as jobs
from registry.database.database import Database
from registry.entities import Job
from registry.errors import LeaseLost
from registry.service import Registry
from registry.settings import Settings
from tests.registry.folders import write_dataset
from workers.attempts import supervisor
from workers.attempts.runner import job_folder, run_here
from workers.errors import JobNotClaimable
from workers.processes.owner import is_dead
from workers.requests.specs import EvalSpec, TrainSpec
from workers.requests.submission import submit
from workers.tracking.spool import Run, read_lines

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]


def handler(name: str) -> dict[str, str]:
    return {"train": f"tests.workers.handlers:{name}"}


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_until_gone(pid: int, *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs after {timeout_s} s"
        time.sleep(0.02)


def wait_for_file(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
    return path.read_text()


def start_elsewhere(settings: Settings, job: Job, name: str) -> "subprocess.Popen[bytes]":
    arguments = [str(settings.home), settings.database_url, str(job.id), name]
    return subprocess.Popen([sys.executable, "-m", "tests.workers.run_job", *arguments], cwd=ROOT)


def test_a_job_succeeds_and_its_progress_is_seen(registry: Registry, job: Job) -> None:
    seen: list[Mapping[str, Any]] = []
    ended = run_here(registry, job.id, on_progress=seen.append, handlers=handler("succeed"))
    assert (ended.state, ended.reason, ended.attempt) == ("succeeded", "ok", 1)
    assert ended.outcome == {"adapter": "bio@1", "fence": 1}
    assert [(said["phase"], said["step"], said["loss"]) for said in seen] == [
        ("training", 1, 1.0),
        ("training", 2, 0.5),
    ]
    # The time left is unknown at the first report, and zero at the last.
    assert [said.get("eta_s") for said in seen] == [None, 0.0]
    actions = [line.record["action"] for line in read_lines(job_folder(registry, job.id), offset=0)]
    # The last metrics are what the attempt cost.
    assert actions == ["spool", "begin", "metrics", "metrics", "metrics", "end"]


def test_a_checkpoint_that_is_not_taken_up_is_said_to_who_looks_on(registry: Registry, job: Job) -> None:
    said: list[tuple[str, Any]] = []
    progress: list[Mapping[str, Any]] = []
    ended = run_here(
        registry,
        job.id,
        handlers=handler("begin_anew"),
        on_progress=progress.append,
        on_event=lambda kind, known: said.append((kind, known["reason"])),
    )
    assert ended.state == "succeeded"
    assert said == [("checkpoint_discarded", "checkpoint-3 is not taken up: no reason")]
    assert progress == []


def test_ctrl_c_cancels_the_job_and_keeps_its_checkpoint(
    registry: Registry, settings: Settings, job: Job
) -> None:
    parent = start_elsewhere(settings, job, "wait_to_be_stopped")
    pid = int(wait_for_file(job_folder(registry, job.id) / "pid"))
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=20) == 130
    ended = registry.jobs.get(job.id)
    assert (ended.state, ended.reason) == ("cancelled", "cancelled")
    assert (job_folder(registry, job.id) / "checkpoint").read_text() == "saved"
    assert is_gone(pid)


def test_a_second_ctrl_c_does_not_wait_for_the_job_process(
    registry: Registry, settings: Settings, job: Job
) -> None:
    parent = start_elsewhere(settings, job, "ignore_everything")
    pid = int(wait_for_file(job_folder(registry, job.id) / "pid"))
    parent.send_signal(signal.SIGINT)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=20) == 130
    assert registry.jobs.get(job.id).state == "cancelled"
    assert is_gone(pid)


def test_a_killed_parent_leaves_no_job_process_and_its_job_can_be_claimed_at_once(
    registry: Registry, settings: Settings, job: Job
) -> None:
    parent = start_elsewhere(settings, job, "wait_to_be_stopped")
    pid = int(wait_for_file(job_folder(registry, job.id) / "pid"))
    assert not is_dead(registry.jobs.get(job.id).owner)
    parent.kill()
    parent.wait()
    wait_until_gone(pid, timeout_s=2)
    ended = run_here(registry, job.id, handlers=handler("succeed"))
    assert (ended.state, ended.lost_attempts, ended.outcome["fence"]) == ("succeeded", 1, 2)


def test_a_job_that_kills_its_process_is_poison_after_its_attempts(registry: Registry, job: Job) -> None:
    notes: list[Mapping[str, Any]] = []
    ended = run_here(
        registry, job.id, handlers=handler("die"), on_event=lambda kind, known: notes.append({kind: known})
    )
    assert (ended.state, ended.reason, ended.fence) == ("failed", "poison", ended.max_attempts)
    assert notes == [{"another_attempt": {"reason": ended.message}}] * 2
    assert ended.message == "its process ended with SIGKILL and left no result"
    *_, last = read_lines(job_folder(registry, job.id), offset=0)
    assert (last.record["action"], last.record["status"]) == ("end", "FAILED")


@pytest.mark.parametrize(
    ("name", "reason", "message"),
    [
        ("fill_the_disk", "disk_full", "OSError: [Errno 28] No space left on device"),
        ("fill_the_disk_for_good", "disk_full", "OSError: [Errno 28] No space left on device"),
        ("refuse", "bad_input", "[ZOO-E401] rank must be a whole number in 1..1024, got 0"),
        ("fail", "error", "ZeroDivisionError: division by zero in step 3"),
        ("nowhere", "error", "AttributeError: module 'tests.workers.handlers' has no attribute 'nowhere'"),
    ],
)
def test_what_a_job_raises_becomes_its_reason(
    registry: Registry, job: Job, name: str, reason: str, message: str
) -> None:
    ended = run_here(registry, job.id, handlers=handler(name))
    assert (ended.state, ended.reason, ended.message) == ("failed", reason, message)
    assert ended.log_path is not None
    assert "Traceback" in Path(ended.log_path).read_text()


def test_a_cancel_from_elsewhere_reaches_the_job_process(registry: Registry, job: Job) -> None:
    def cancel(said: Mapping[str, Any]) -> None:
        registry.jobs.request_cancel(job.id)

    ended = run_here(registry, job.id, on_progress=cancel, handlers=handler("wait_to_be_stopped"), lease_s=3)
    assert (ended.state, ended.message) == ("cancelled", "[ZOO-E414] the job was asked to stop")
    assert (job_folder(registry, job.id) / "checkpoint").exists()


def test_a_job_process_that_does_not_stop_is_killed_after_its_grace(
    registry: Registry, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.5)

    def cancel(said: Mapping[str, Any]) -> None:
        registry.jobs.request_cancel(job.id)

    ended = run_here(registry, job.id, on_progress=cancel, handlers=handler("ignore_everything"), lease_s=3)
    assert (ended.state, ended.message) == ("cancelled", "ended before it could save more")
    assert is_gone(int((job_folder(registry, job.id) / "pid").read_text()))


def test_a_job_past_its_deadline_saves_a_checkpoint_and_fails(registry: Registry) -> None:
    job = registry.jobs.submit("train", {}, deadline_s=3)
    ended = run_here(registry, job.id, handlers=handler("wait_to_be_stopped"), lease_s=3)
    assert (job_folder(registry, job.id) / "checkpoint").exists()
    assert (ended.state, ended.reason) == ("failed", "deadline")


def test_a_lease_taken_by_another_kills_the_job_process_without_a_change(
    registry: Registry, job: Job
) -> None:
    def steal(said: Mapping[str, Any]) -> None:
        registry.jobs.expire(job.id, fence=1)
        registry.jobs.claim(job.id, owner="thief", lease_s=60)

    with pytest.raises(LeaseLost):
        run_here(registry, job.id, on_progress=steal, handlers=handler("ignore_everything"), lease_s=3)
    wait_until_gone(int((job_folder(registry, job.id) / "pid").read_text()), timeout_s=2)
    stolen = registry.jobs.get(job.id)
    assert (stolen.state, stolen.owner, stolen.fence) == ("running", "thief", 2)


def test_a_display_that_blocks_does_not_cost_the_lease(registry: Registry, job: Job) -> None:
    lease_s = 1.5
    ended = run_here(
        registry,
        job.id,
        on_progress=lambda _: time.sleep(lease_s * 0.8),
        handlers=handler("succeed"),
        lease_s=lease_s,
    )
    assert (ended.state, ended.attempt) == ("succeeded", 1)


def test_a_job_longer_than_its_lease_keeps_it(registry: Registry, job: Job) -> None:
    # Shorter than the job, but longer than a busy machine delays a beat.
    ended = run_here(registry, job.id, handlers=handler("outlast_the_lease"), lease_s=1.5)
    assert (ended.state, ended.attempt, ended.message) == ("succeeded", 1, None)


def test_a_fault_of_the_supervisor_gives_the_job_back_unspent(registry: Registry, job: Job) -> None:
    def break_down(said: Mapping[str, Any]) -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError):
        run_here(registry, job.id, on_progress=break_down, handlers=handler("ignore_everything"))
    wait_until_gone(int((job_folder(registry, job.id) / "pid").read_text()), timeout_s=2)
    given_back = registry.jobs.get(job.id)
    assert (given_back.state, given_back.attempt, given_back.lost_attempts) == ("queued", 0, 1)


def test_what_a_library_prints_goes_to_the_log_and_it_can_read_nothing(registry: Registry, job: Job) -> None:
    ended = run_here(registry, job.id, handlers=handler("print_and_read"))
    assert ended.outcome == {"read": ""}
    assert ended.log_path is not None
    log = Path(ended.log_path).read_text()
    assert "printed by a library" in log
    assert "written to descriptor 1" in log


def test_a_job_process_gets_no_secrets_and_no_network_of_models(
    registry: Registry, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "ZOO_DATABASE_URL", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("ZOO_THREADS", "3")
    started_with = run_here(registry, job.id, handlers=handler("look_around")).outcome
    environ = started_with["environ"]
    assert "secret" not in environ.values()
    assert (environ["HF_HUB_OFFLINE"], environ["OMP_NUM_THREADS"]) == ("1", "3")
    assert "" not in started_with["path"]
    assert started_with["arguments"][1:] == []


def test_a_job_that_runs_or_has_ended_is_not_started_again(registry: Registry, job: Job) -> None:
    registry.jobs.claim(job.id, owner="somebody/else", lease_s=60)
    with pytest.raises(JobNotClaimable, match=f"job {job.id} is running"):
        run_here(registry, job.id)
    registry.jobs.finish(job.id, fence=1, state="succeeded", reason="ok")
    with pytest.raises(JobNotClaimable, match=f"job {job.id} is succeeded"):
        run_here(registry, job.id)


def test_a_job_out_of_memory_is_tried_again_with_less(registry: Registry, job: Job) -> None:
    ended = run_here(registry, job.id, handlers=handler("need_less_memory"))
    assert (ended.state, ended.memory_cuts, ended.attempt) == ("succeeded", 2, 1)
    assert ended.outcome == {"rows": 2}
    kinds = [(event.kind, event.payload.get("reason")) for event in registry.jobs.events(job.id)]
    assert kinds.count(("queued", "host_oom")) == 2


def test_a_full_disk_ends_the_job_without_another_try(registry: Registry, job: Job) -> None:
    ended = run_here(registry, job.id, handlers=handler("fill_the_disk"))
    assert (ended.state, ended.reason, ended.fence) == ("failed", "disk_full", 1)


def _stored(registry: Registry) -> Path:
    digest = registry.datasets.get("bio.train").files[0].digest
    return next(Path(registry.settings.artifact_root).rglob(f"*{digest.removeprefix('sha256:')[8:]}*"))


def _without_record(registry: Registry) -> None:
    """As a database restored from an older backup is: `rm` keeps what an open job names."""
    with Database(registry.settings).write() as session:
        session.execute(text("UPDATE dataset_version SET state = 'deleted'"))


@pytest.mark.parametrize(
    ("meanwhile", "said"),
    [
        (lambda registry: _stored(registry).unlink(), "[ZOO-E282]"),
        (lambda registry: _stored(registry).write_bytes(b"changed"), "[ZOO-E281]"),
        (lambda registry: _without_record(registry), "[ZOO-E213]"),
    ],
    ids=["file gone", "digest changed", "record gone"],
)
def test_what_goes_wrong_after_the_request_is_bad_input_at_once_and_shown(
    registry: Registry, tmp_path: Path, meanwhile: Callable[[Registry], object], said: str
) -> None:
    registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"))
    spec = TrainSpec(name="bio", base="pico", train_dataset="bio.train@1")
    asked = submit(registry, spec).job
    meanwhile(registry)
    ended = run_here(registry, asked.id, handlers=handler("read_what_was_asked_for"))
    assert (ended.state, ended.reason, ended.fence) == ("failed", "bad_input", 1)
    known = {"ZOO_HOME": str(registry.settings.home), "ZOO_DATABASE_URL": registry.settings.database_url}
    shown = CliRunner(env=known).invoke(jobs, ["show", str(asked.id)], terminal_width=200)
    assert (shown.exit_code, "bad_input" in shown.output) == (0, True)
    assert said in shown.output


def test_an_equal_request_gives_the_job_of_before(registry: Registry) -> None:
    spec = TrainSpec(name="bio", base="pico", train_dataset="bio.train@1")
    first = submit(registry, spec).job
    assert submit(registry, spec).job.id == first.id
    assert submit(registry, spec, force=True).job.id != first.id
    other = EvalSpec(subjects=("base:pico",), datasets={"bio": "bio.eval@1"})
    assert submit(registry, other).job.id not in (first.id, first.id + 1)


def test_a_cancelled_request_is_queued_again_when_it_is_made_again(registry: Registry) -> None:
    spec = TrainSpec(name="bio", base="pico", train_dataset="bio.train@1")
    first = submit(registry, spec).job
    registry.jobs.request_cancel(first.id)
    again = submit(registry, spec).job
    assert (again.id, again.state) == (first.id, "queued")


def test_a_disk_too_full_for_the_end_of_a_run_hides_no_reason(
    registry: Registry, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: Run, status: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "end", no_room)
    ended = run_here(registry, job.id, handlers=handler("fill_the_disk"))
    assert (ended.state, ended.reason) == ("failed", "disk_full")


def test_a_disk_too_full_for_the_beginning_of_a_run_leaves_no_lease_renewed(
    registry: Registry, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: Run, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "begin", no_room)
    with pytest.raises(OSError, match="No space left"):
        run_here(registry, job.id, handlers=handler("succeed"))
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}
