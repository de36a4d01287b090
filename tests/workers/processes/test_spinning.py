"""Threads spin for each other only where they find processors: work goes on beside a busy process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.workers.started_processes import wait_until
from workers.processes.child_environment import child_environment
from workers.processes.spinning import SleepingTeam, is_crowded, waited_s

ROOT = Path(__file__).resolve().parents[3]

#: Operations of a small training step, on two threads that wait for each other after every one.
_WORK = """
import sys, time, torch
from workers.processes.spinning import limit_spinning
torch.set_num_threads(2)
given, weight = torch.randn(160, 576), torch.randn(576, 576)
if sys.argv[1] == "follow":
    limit_spinning()

def processor_time(seconds):
    ends, before, steps = time.monotonic() + seconds, time.process_time(), 0
    while time.monotonic() < ends:
        for _ in range(8):
            torch.tanh(torch.nn.functional.linear(given, weight) * 0.01)
        steps += 1
    return (time.process_time() - before) / steps

processor_time(1.5)  # others are noticed
beside = processor_time(1.5)
torch.set_num_threads(1)
print(beside / processor_time(0.5))
"""
#: On two threads that spin for each other the work takes ten times as much and more.
_MOST = 3.0


@pytest.fixture
def two_processors() -> set[int]:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        pytest.fail("two threads need two processors to wait for each other")
    return set(usable[:2])


def own_threads() -> set[str]:
    return {thread.name for thread in Path("/proc/self/task").iterdir()}


def processor_time_beside_a_busy_process(mode: str, processors: set[int]) -> float:
    """What two threads take of the two processors, a busy process being there, in times what one would."""
    environ = {**child_environment(os.environ), "OMP_NUM_THREADS": "2"}
    environ.pop("OMP_WAIT_POLICY", None)  # as this test suite runs, not as jobs do
    with subprocess.Popen(
        [sys.executable, "-c", "while True: pass"],
        start_new_session=True,  # as another user's: Linux shares processors among sessions
        preexec_fn=lambda: os.sched_setaffinity(0, processors),
    ) as busy:
        try:
            done = subprocess.run(
                [sys.executable, "-c", _WORK, mode],
                cwd=ROOT,
                env=environ,
                capture_output=True,
                text=True,
                check=True,
                preexec_fn=lambda: os.sched_setaffinity(0, processors),
            )
        finally:
            busy.kill()
    return float(done.stdout)


@pytest.mark.alone
@pytest.mark.processes
def test_threads_beside_a_busy_process_take_little_more_than_their_work(two_processors: set[int]) -> None:
    assert processor_time_beside_a_busy_process("follow", two_processors) < _MOST


def test_a_second_team_sleeps_and_leaves_nothing_behind() -> None:
    usual = torch.get_num_threads()
    SleepingTeam(3).end()  # torch starts threads of its own at the first
    before = own_threads()
    team = SleepingTeam(3)
    # By name: threads of earlier tests may end meanwhile.
    wait_until(lambda: len(own_threads() - before) >= 3, what="the team is there")
    assert torch.get_num_threads() == usual
    members = own_threads() - before
    team.end()
    wait_until(lambda: not own_threads() & members, what="the team is gone", timeout_s=20)


def test_the_waiting_of_all_threads_is_counted(tmp_path: Path) -> None:
    assert waited_s(tmp_path) is None
    for thread, nanoseconds in (("1", 1_500_000_000), ("2", 250_000_000)):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(f"77 {nanoseconds} 9\n")
    assert waited_s(tmp_path) == 1.75


def test_a_machine_is_crowded_until_threads_hardly_wait() -> None:
    assert [is_crowded(waited, was=False) for waited in (0.1, 0.25, 0.5)] == [False, False, True]
    assert [is_crowded(waited, was=True) for waited in (0.1, 0.25, 0.5)] == [False, True, True]
