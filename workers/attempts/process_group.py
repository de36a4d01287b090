"""A job in several processes: one trainer starts them, feeds them, and ends when and as they end.

Each is the trainer's program again, with a rank: 0 is the first, reports progress and registers what was
made. They share the trainer's session and hang on it by a death signal and a leash each, so whatever ends the
trainer ends them. Never imports torch.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.attempts.results import Result
from workers.processes.child_environment import child_command
from workers.processes.json_lines import JsonLines
from workers.processes.parent_watchdog import extended_to

_POLL_S = 0.1
#: A process that is killed takes the connections of the others with it, and their complaints may come first.
_SETTLE_S = 1.0
#: Traffic between the processes of a job stays on its machine.
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True, kw_only=True)
class Place:
    """One process's place among those of its job; its rank is counted from 0."""

    rank: int = 0
    processes: int = 1
    #: A file in an empty folder, which the first that comes makes.
    meeting_place: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reports and registers."""
        return self.rank == 0


@dataclass(frozen=True, kw_only=True)
class RankEnd:
    """How one process ended, as far as it has: with a result, or with an exit code and without a word."""

    rank: int
    result: Result | None
    exit_code: int | None

    @property
    def is_silent(self) -> bool:
        """Whether it ended without a word."""
        return self.result is None and self.exit_code is not None


def rank_environment(environ: Mapping[str, str], *, rank: int, processes: int) -> dict[str, str]:
    """What torch and accelerate look for, on the loopback interface alone, and a share of the threads."""
    threads = str(max(1, int(environ.get("OMP_NUM_THREADS", "1")) // processes))
    return {
        **environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GLOO_SOCKET_IFNAME": _LOOPBACK,
        "NCCL_SOCKET_IFNAME": _LOOPBACK,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }


def deciding_end(ends: Sequence[RankEnd], *, have_settled: bool) -> RankEnd | None:
    """The end that decides how the attempt ends; None while it goes on. `ends` are in the order they came.

    One that fails decides at once, but an error may only be what another's silent death did to it, so that
    one is waited for until the ends have settled. Without failures the first process decides, by ending.
    """
    failed = [end for end in ends if end.result is not None and end.result.state == "failed"]
    of_itself = [end for end in failed if end.result is not None and end.result.reason != "error"]
    silent = [end for end in ends if end.is_silent]
    if of_itself or silent:
        return (of_itself or silent)[0]
    if failed:
        return failed[0] if have_settled else None
    return next((end for end in ends if end.rank == 0 and end.exit_code is not None), None)


class Ranks:
    """The processes of one attempt; none before `run`."""

    def __init__(self) -> None:
        self._ranks: list[_Rank] = []
        self._until = 0.0

    def lengthen(self, until: float) -> None:
        """Pass a renewal of the lease on to every process, and to those that are yet to start."""
        self._until = until
        for rank in self._ranks:
            rank.lengthen(until)

    def run(
        self,
        order: Mapping[str, Any],
        *,
        gpu_locks: Sequence[int],
        stop_requested: Callable[[], bool],
        send: Callable[[Mapping[str, object]], None],
    ) -> RankEnd:
        """Start the processes, pass on what the first one says, and end them all; the end that decided.

        They hold the GPUs' locks too: a lock is free once all of them are gone.
        """
        places = Path(order["folder"]) / "meeting-places"
        shutil.rmtree(places, ignore_errors=True)  # what a killed attempt left
        places.mkdir(exist_ok=True)
        place = Place(processes=order["processes"], meeting_place=str(places / str(order["fence"])))
        try:
            for number in range(place.processes):
                # A wait for GPUs may have lasted longer than the lease that the order tells of.
                held = {**order, "until": max(order["until"], self._until)}
                self._ranks.append(_Rank(number, held, place, gpu_locks))
            return self._attend(stop_requested, send)
        finally:
            for rank in self._ranks:
                rank.close()
            shutil.rmtree(places, ignore_errors=True)

    def _attend(
        self, stop_requested: Callable[[], bool], send: Callable[[Mapping[str, object]], None]
    ) -> RankEnd:
        ends: dict[int, RankEnd] = {}
        failed_at: float | None = None
        is_asked = False
        while True:
            if stop_requested() and not is_asked:
                self._ranks[0].ask_to_end()  # which has the others end with it, after the same step
                is_asked = True
            for rank in self._ranks:
                for said in rank.progress(timeout_s=_POLL_S / len(self._ranks)):
                    if rank.number == 0:
                        send(said)
                if (end := rank.end()) is not None:
                    ends[rank.number] = end  # a dict keeps the place of a key that it has
            if failed_at is None and any(
                end.result and end.result.state == "failed" for end in ends.values()
            ):
                failed_at = time.monotonic()
            settled = failed_at is not None and time.monotonic() - failed_at > _SETTLE_S
            if (deciding := deciding_end(list(ends.values()), have_settled=settled)) is not None:
                return deciding


class _Rank:
    """One of the processes."""

    def __init__(self, number: int, order: Mapping[str, Any], place: Place, gpu_locks: Sequence[int]) -> None:
        self.number = number
        self._result: Result | None = None
        self._process = subprocess.Popen(
            # The arguments are for whoever looks at a list of processes.
            child_command("workers.attempts.job_process", f"job-{order['job_id']}", f"rank-{number}"),
            env=rank_environment(os.environ, rank=number, processes=place.processes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=gpu_locks,
        )
        self._lines = JsonLines(self._process.stdout)
        own = {"parent_pid": os.getpid(), "gpus": [], "place": {**asdict(place), "rank": number}}
        self._write(json.dumps({**order, **own}).encode() + b"\n")

    def lengthen(self, until: float) -> None:
        """Tell it that it may go on until then."""
        self._write(extended_to(until))

    def ask_to_end(self) -> None:
        """Once; what it has is saved first."""
        self._process.send_signal(signal.SIGTERM)

    def progress(self, *, timeout_s: float) -> list[Mapping[str, Any]]:
        """What it has said since the last time, its result aside."""
        said = self._lines.read(timeout_s=timeout_s)
        for line in said:
            if "result" in line:
                self._result = Result(**line["result"])
        return [line for line in said if "result" not in line]

    def end(self) -> RankEnd | None:
        """How it ended, if it has, or says that it is about to."""
        exit_code = self._process.wait() if self._lines.have_ended else None
        if self._result is None and exit_code is None:
            return None
        return RankEnd(rank=self.number, result=self._result, exit_code=exit_code)

    def close(self) -> None:
        """Make sure that it has ended, and give its pipes back."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _write(self, content: bytes) -> None:
        # One that has ended is noticed elsewhere.
        with contextlib.suppress(BrokenPipeError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.write(content)
