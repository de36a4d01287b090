"""A job in several processes: the job process starts them, extends their lives, and ends when and as they do.

Each runs the job process's program with an index; the first, 0, reports progress and registers the result.
They share the job process's session, and each has a death signal and a parent watchdog, so whatever ends the
job process ends them. Never imports torch.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workers.attempts.results import Result
from workers.processes.child_environment import child_command
from workers.processes.json_lines import JsonLines
from workers.processes.parent_watchdog import extended_to

_POLL_S = 0.1
#: When a process is killed, the others lose their connections to it, and their errors may arrive first.
_SETTLE_S = 1.0
#: Traffic between the processes of a job stays on its machine.
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True, kw_only=True)
class GroupMember:
    """One process among those of its job."""

    #: From 0.
    index: int = 0
    processes: int = 1
    #: A file in an empty folder, through which the processes find each other; the first to arrive creates it.
    rendezvous: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reports and registers."""
        return self.index == 0


@dataclass(frozen=True, kw_only=True)
class ProcessEnd:
    """How one process ended: with a result, with an exit code, or both."""

    index: int
    result: Result | None
    exit_code: int | None

    @property
    def is_without_result(self) -> bool:
        """Whether the process has exited and left no result."""
        return self.result is None and self.exit_code is not None


def member_environment(environ: Mapping[str, str], *, index: int, processes: int) -> dict[str, str]:
    """The variables of torch and accelerate, for the loopback interface alone, and a share of the threads."""
    threads = str(max(1, int(environ.get("OMP_NUM_THREADS", "1")) // processes))
    return {
        **environ,
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GLOO_SOCKET_IFNAME": _LOOPBACK,
        "NCCL_SOCKET_IFNAME": _LOOPBACK,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }


def deciding_end(ends: Sequence[ProcessEnd], *, have_settled: bool) -> ProcessEnd | None:
    """The end that decides the attempt; None while the attempt continues. `ends` are in order of arrival.

    A failure decides at once, unless its reason is a plain error, which may follow from the death of another
    process; then the ends of the others are awaited. Without failures the end of the first process decides.
    """
    failed = [end for end in ends if end.result is not None and end.result.state == "failed"]
    with_cause = [end for end in failed if end.result is not None and end.result.reason != "error"]
    without_result = [end for end in ends if end.is_without_result]
    if with_cause or without_result:
        return (with_cause or without_result)[0]
    if failed:
        return failed[0] if have_settled else None
    return next((end for end in ends if end.index == 0 and end.exit_code is not None), None)


class ProcessGroup:
    """The processes of one attempt; empty before `run`."""

    def __init__(self) -> None:
        self._processes: list[_Process] = []
        self._until = 0.0

    def extend_to(self, until: float) -> None:
        """Pass a renewal of the lease on to every process, and to those that are yet to start."""
        self._until = until
        for process in self._processes:
            process.extend_to(until)

    def run(
        self,
        order: Mapping[str, Any],
        *,
        gpu_locks: Sequence[int],
        stop_requested: Callable[[], bool],
        send: Callable[[Mapping[str, object]], None],
    ) -> ProcessEnd:
        """Start the processes, forward the first one's progress, and end them all; the end that decided.

        They hold the GPUs' locks too, so a lock is free when all of them have ended.
        """
        folder = Path(order["folder"]) / "rendezvous"
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed attempt
        folder.mkdir(exist_ok=True)
        member = GroupMember(processes=order["processes"], rendezvous=str(folder / str(order["fence"])))
        try:
            for index in range(member.processes):
                # The lease in the order may have been renewed during a wait for GPUs.
                renewed = {**order, "until": max(order["until"], self._until)}
                self._processes.append(_Process(replace(member, index=index), renewed, gpu_locks))
            return self._attend(stop_requested, send)
        finally:
            for process in self._processes:
                process.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _attend(
        self, stop_requested: Callable[[], bool], send: Callable[[Mapping[str, object]], None]
    ) -> ProcessEnd:
        ends: dict[int, ProcessEnd] = {}
        failed_at: float | None = None
        is_asked = False
        while True:
            if stop_requested() and not is_asked:
                self._processes[0].ask_to_end()  # the others then end with it, after the same step
                is_asked = True
            for index, process in enumerate(self._processes):
                for message in process.progress(timeout_s=_POLL_S / len(self._processes)):
                    if index == 0:
                        send(message)
                if (end := process.end()) is not None:
                    ends[index] = end  # updating a key keeps its position in the dict
            if failed_at is None and any(
                end.result and end.result.state == "failed" for end in ends.values()
            ):
                failed_at = time.monotonic()
            settled = failed_at is not None and time.monotonic() - failed_at > _SETTLE_S
            if (deciding := deciding_end(list(ends.values()), have_settled=settled)) is not None:
                return deciding


class _Process:
    """One process of the group."""

    def __init__(self, member: GroupMember, order: Mapping[str, Any], gpu_locks: Sequence[int]) -> None:
        self._index = member.index
        self._result: Result | None = None
        self._process = subprocess.Popen(
            # The arguments only identify the process in lists of processes.
            child_command(
                "workers.attempts.job_process", f"job-{order['job_id']}", f"process-{member.index}"
            ),
            env=member_environment(os.environ, index=member.index, processes=member.processes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=gpu_locks,
        )
        self._lines = JsonLines(self._process.stdout)
        own = {"parent_pid": os.getpid(), "gpus": [], "member": asdict(member)}
        self._write(json.dumps({**order, **own}).encode() + b"\n")

    def extend_to(self, until: float) -> None:
        """Extend the process's life to a time of the monotonic clock."""
        self._write(extended_to(until))

    def ask_to_end(self) -> None:
        """Ask the process to save a checkpoint and end."""
        self._process.send_signal(signal.SIGTERM)

    def progress(self, *, timeout_s: float) -> list[Mapping[str, Any]]:
        """Progress messages since the last call; a result is kept for `end`."""
        messages = self._lines.read(timeout_s=timeout_s)
        for message in messages:
            if "result" in message:
                self._result = Result(**message["result"])
        return [message for message in messages if "result" not in message]

    def end(self) -> ProcessEnd | None:
        """How the process ended; None while it runs and has sent no result."""
        exit_code = self._process.wait() if self._lines.have_ended else None
        if self._result is None and exit_code is None:
            return None
        return ProcessEnd(index=self._index, result=self._result, exit_code=exit_code)

    def close(self) -> None:
        """Kill the process if it still runs, and close its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _write(self, content: bytes) -> None:
        # `end` notices a process that has ended.
        with contextlib.suppress(BrokenPipeError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.write(content)
