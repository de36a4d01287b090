"""Everything `workers` raises on purpose.

WorkersError                     ZOO-E400  exit 1
├── SpecInvalid                  ZOO-E401  exit 2    a request with a field out of range
├── SpecFileInvalid              ZOO-E402  exit 2    a file that holds no request
├── JobFailed                    ZOO-E410  exit 7    the job ended without a result
├── JobCancelled                 ZOO-E411  exit 130  the job was cancelled
├── JobNotClaimable              ZOO-E412  exit 5    the job has ended, or another process runs it
├── StopRequested                ZOO-E414  exit 130  raised inside a job that was asked to stop
├── HandlerUnknown               ZOO-E415  exit 1    no handler is registered for this kind of job
├── GpuBusy                      ZOO-E417  exit 5    another process holds the lock of a GPU
├── BrokerUnusable               ZOO-E418  exit 6    no broker is configured, or its client is not installed
├── GpuUnusable                  ZOO-E419  exit 6    torch cannot use a visible GPU
├── TrackingUnavailable          ZOO-E420  exit 6    MLflow could not be reached, or refused a run
├── NotIsolated                  ZOO-E421  exit 6    no process without network can be had to read a pickle
├── NoExpertHelps                ZOO-E422  exit 4    on the data given, no expert is better than its base
├── NothingMeasured              ZOO-E423  exit 1    an evaluation with no example that a metric counts
├── AliasKept                    ZOO-E424  exit 5    an alias was not to move to what is worse
└── HarnessMissing               ZOO-E425  exit 6    lm-evaluation-harness is not installed
"""

from collections.abc import Sequence

from formats.errors import InvalidField


class WorkersError(Exception):
    """Root of everything the workers raise on purpose."""

    code = "ZOO-E400"
    exit_code = 1
    #: What a job ends for that raises it; its budget decides on a retry.
    reason = "error"


class SpecInvalid(InvalidField, WorkersError):
    """A field of a request is missing, unknown, or out of its range."""

    code = "ZOO-E401"
    exit_code = 2


class SpecFileInvalid(WorkersError):
    """A file that should hold a request cannot be read, or holds something else."""

    code = "ZOO-E402"
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
    """The job ended because it was cancelled; what it had saved is kept."""

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
    """Raised inside a job that was asked to stop, after it has saved its checkpoint."""

    code = "ZOO-E414"
    exit_code = 130


class HandlerUnknown(WorkersError):
    """The table of handlers has no row for this kind of job, or the row names no importable function."""

    code = "ZOO-E415"


class GpuBusy(WorkersError):
    """Another process on this host holds the lock of a GPU."""

    code = "ZOO-E417"
    exit_code = 5
    reason = "infra"


class GpuUnusable(WorkersError):
    """A GPU is visible to this process, but its torch cannot use it."""

    code = "ZOO-E419"
    exit_code = 6
    reason = "infra"


class BrokerUnusable(WorkersError):
    """No broker is configured, or its client library is not installed."""

    code = "ZOO-E418"
    exit_code = 6


class TrackingUnavailable(WorkersError):
    """MLflow could not be reached, or refused a run, which stays in the job's spool."""

    code = "ZOO-E420"
    exit_code = 6


class NotIsolated(WorkersError):
    """The system allows no process without network, so nothing reads a pickle here."""

    code = "ZOO-E421"
    exit_code = 6


class NoExpertHelps(WorkersError):
    """On the unlabelled data that were given, the experts are no better than their base model."""

    code = "ZOO-E422"
    exit_code = 4
    reason = "bad_input"

    def __init__(self, experts: Sequence[str], experts_loss: float, base_loss: float) -> None:
        super().__init__(
            f"no expert of {', '.join(experts)} helps on the data given: with the expert that suits each"
            f" token the loss is {experts_loss:.3f}, with the base {base_loss:.3f}; nothing was trained."
            " Give data that the experts were made for (--data), or other experts; --without-help trains all"
            " the same"
        )


class NothingMeasured(WorkersError):
    """No example is one that a metric counts, so that there is no value, and not a value of zero."""

    code = "ZOO-E423"
    reason = "bad_input"


class AliasKept(WorkersError):
    """An alias stays: the version it was to move to is worse, or it cannot be told that it is not."""

    code = "ZOO-E424"
    exit_code = 5

    def __init__(self, alias: str, version: str, other: str, sentence: str) -> None:
        super().__init__(
            f"{alias} stays: it is not shown that {version} is no worse than {other}: {sentence}; measure on"
            " more examples, allow more with --margin, or move it without --unless-worse-than"
        )


class HarnessMissing(WorkersError):
    """lm-evaluation-harness cannot be imported by the process that was to run its tasks."""

    code = "ZOO-E425"
    exit_code = 6

    def __init__(self, why: str) -> None:
        super().__init__(
            f"lm-evaluation-harness is not installed here ({why}); install it with:"
            " pip install 'adapter-zoo[lm-eval]'"
        )
