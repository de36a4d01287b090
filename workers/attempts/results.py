"""The result of one attempt: an exception becomes a reason, and a file carries it to the supervisor."""

import errno
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.errors import InvalidField
from registry.errors import RegistryError
from workers.errors import WorkersError
from workers.processes.parent_watchdog import EXIT_ABANDONED
from workers.processes.replaced_file import replaced_file
from xlora_engine.errors import EngineError

#: Roots of the errors that say themselves what a job ends for; others may have a `reason` of another meaning.
_OURS = (RegistryError, EngineError, WorkersError, InvalidField)
#: Messages of plain RuntimeErrors by which torch and libraries below it report that memory ran out: the CPU's
#: allocator; a driver, cuBLAS or cuDNN that allocates memory of its own; NCCL.
_OUT_OF_MEMORY = {
    "DefaultCPUAllocator: can't allocate memory": "host_oom",
    "DefaultCPUAllocator: not enough memory": "host_oom",
    "CUDA out of memory": "cuda_oom",
    "CUDA error: out of memory": "cuda_oom",
    "HIP out of memory": "cuda_oom",
    "CUBLAS_STATUS_ALLOC_FAILED": "cuda_oom",
    "CUDNN_STATUS_ALLOC_FAILED": "cuda_oom",
    "Cuda failure 2 'out of memory'": "cuda_oom",
}
#: Exit code of every error that means "stopped on request".
_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Result:
    """How an attempt ended; `reason` is one of `registry.jobs.states.REASONS`, or "drained"."""

    state: str
    reason: str
    message: str | None = None
    outcome: Mapping[str, Any] | None = None


def failure(error: BaseException) -> Result:
    """The result of an attempt that ended with this error."""
    code = str(getattr(error, "code", ""))
    said = f"[{code}] {error}" if code.startswith("ZOO-") else f"{type(error).__name__}: {error}"
    if getattr(error, "exit_code", None) == _INTERRUPTED:
        return Result(state="cancelled", reason="cancelled", message=said)
    return Result(state="failed", reason=_reason(error), message=said)


def _reason(error: BaseException) -> str:
    """What a job ends for that raises this: the one place that decides."""
    if isinstance(error, _OURS):
        return error.reason
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    if isinstance(error, MemoryError):
        return "host_oom"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, by name, because importing torch takes seconds
        return "cuda_oom"
    if isinstance(error, RuntimeError) and (memory := _memory_named(str(error))) is not None:
        return memory
    return "error"


def _memory_named(said: str) -> str | None:
    return next((reason for words, reason in _OUT_OF_MEMORY.items() if words in said), None)


def conclude(
    result: Result | None, *, exit_code: int, asked_because: str | None, memory_ran_out: bool
) -> Result:
    """The result of an attempt, from the job process's own (None if it left none) and its exit code.

    `asked_because` is why the process was asked to stop, "cancelled", "deadline" or "drained", if it was. An
    attempt that was drained ends "queued", for another worker to resume it.
    """
    if result is not None and result.state != "cancelled":
        return result
    if asked_because == "drained":
        return Result(state="queued", reason="drained", message="its worker was shut down")
    if asked_because == "deadline":
        return Result(state="failed", reason="deadline", message="it ran past its deadline")
    if result is not None:
        return result
    if asked_because is not None:
        return Result(state="cancelled", reason="cancelled", message="ended before it could save more")
    if exit_code == EXIT_ABANDONED:
        return Result(state="failed", reason="infra", message="its supervisor did not renew the lease")
    how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    if memory_ran_out and exit_code == -signal.SIGKILL:
        return Result(state="failed", reason="host_oom", message="the machine ran out of memory")
    return Result(state="failed", reason="poison", message=f"its process ended with {how} and left no result")


def result_path(folder: Path, fence: int) -> Path:
    """The file of the result of the attempt with this fence, so that no older one is mistaken for it."""
    return folder / f"result-{fence}.json"


def write_result(folder: Path, fence: int, result: Result) -> None:
    """Write the result for the supervisor, completely or not at all."""
    with replaced_file(result_path(folder, fence), durable=True) as staged:
        staged.write_text(json.dumps(vars(result), default=str), encoding="utf-8")


def read_result(folder: Path, fence: int) -> Result | None:
    """The result that the job process wrote; None if it wrote none."""
    try:
        return Result(**json.loads(result_path(folder, fence).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
