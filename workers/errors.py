"""What can go wrong between a request and its result.

WorkersError                     ZOO-E400  exit 1
├── SpecInvalid                  ZOO-E401  exit 2    a request with a field out of range
├── JobFailed                    ZOO-E410  exit 7    the job ended without a result
├── JobCancelled                 ZOO-E411  exit 130  somebody asked the job to end
├── JobNotClaimable              ZOO-E412  exit 5    it ended already, or somebody else runs it
├── StopRequested                ZOO-E414  exit 130  raised inside a job that was asked to end
├── HandlerUnknown               ZOO-E415  exit 1    no code is registered for this kind of job
├── GpuBusy                      ZOO-E417  exit 5    another process holds a GPU that is wanted
├── GpuUnusable                  ZOO-E419  exit 6    torch cannot use a GPU that is there for it
├── BrokerUnusable               ZOO-E418  exit 6    the broker cannot be used as it is
├── JobUnfinished                ZOO-E416  exit 7    waiting took longer than allowed
└── TrackingUnavailable          ZOO-E420  exit 6    MLflow did not take what was measured
"""

from formats.errors import InvalidField


class WorkersError(Exception):
    """Root of everything the workers raise on purpose."""

    code = "ZOO-E400"
    exit_code = 1


class SpecInvalid(InvalidField, WorkersError):
    """A field of a request is missing, unknown, or out of its range."""

    code = "ZOO-E401"
    exit_code = 2


class JobFailed(WorkersError):
    """The job ended without a result; `reason` is the machine-readable cause."""

    code = "ZOO-E410"
    exit_code = 7

    def __init__(self, job_id: object, *, reason: str, message: str) -> None:
        super().__init__(f"job {job_id} failed ({reason}): {message}; see: zoo jobs logs {job_id}")
        self.job_id = job_id
        self.reason = reason


class JobCancelled(WorkersError):
    """The job was asked to end and did; what it had saved is kept."""

    code = "ZOO-E411"
    exit_code = 130

    def __init__(self, job_id: object, *, message: str) -> None:
        super().__init__(f"job {job_id} was cancelled: {message}; see: zoo jobs show {job_id}")
        self.job_id = job_id


class JobNotClaimable(WorkersError):
    """The job has ended, or another process holds its lease."""

    code = "ZOO-E412"
    exit_code = 5

    def __init__(self, job_id: object, *, state: str) -> None:
        super().__init__(
            f"job {job_id} is {state}, so it cannot be started here; see: zoo jobs show {job_id}"
        )
        self.job_id = job_id
        self.state = state


class StopRequested(WorkersError):
    """Raised inside a job that was asked to end, once it has saved what it wants to keep."""

    code = "ZOO-E414"
    exit_code = 130


class HandlerUnknown(WorkersError):
    """The table of handlers has no row for this kind of job, or the row names nothing importable."""

    code = "ZOO-E415"


class JobUnfinished(WorkersError):
    """The job had not ended when the time allowed for waiting was over."""

    code = "ZOO-E416"
    exit_code = 7

    def __init__(self, job_id: object, *, state: str, timeout_s: float) -> None:
        super().__init__(
            f"job {job_id} is still {state} after {timeout_s:g} s; wait longer with:"
            f" zoo jobs wait {job_id} --timeout {timeout_s * 2:g}"
        )
        self.job_id = job_id


class GpuBusy(WorkersError):
    """Another process of this host holds the lock of a GPU."""

    code = "ZOO-E417"
    exit_code = 5


class GpuUnusable(WorkersError):
    """A GPU is there for this process, and its torch cannot use it."""

    code = "ZOO-E419"
    exit_code = 6


class BrokerUnusable(WorkersError):
    """The broker, or the library that speaks to it, is not there."""

    code = "ZOO-E418"
    exit_code = 6


class TrackingUnavailable(WorkersError):
    """MLflow could not be reached or refused; what was measured stays in the job's spool."""

    code = "ZOO-E420"
    exit_code = 6
