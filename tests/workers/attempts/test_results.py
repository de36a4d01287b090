"""The results of attempts: the reasons of errors, and the supervisor's conclusions."""

import errno
import json
from pathlib import Path

import pytest
import torch

from registry import errors
from registry.errors import AdapterNotFound, DiskFull, Incompatible, SchemaMismatch
from registry.files.blobs.remote import StoreUnreachable
from registry.jobs.states import REASONS
from workers import errors as workers_errors
from workers.attempts.results import Result, conclude, failure, read_result, result_path, write_result
from workers.errors import SpecInvalid, StopRequested
from workers.processes.parent_watchdog import EXIT_ABANDONED
from xlora_engine import errors as engine_errors
from xlora_engine.errors import TrainingDiverged, TrainingStopped

SUCCESS = Result(state="succeeded", reason="ok", outcome={"adapter": "bio@1"})
CANCELLED = Result(state="cancelled", reason="cancelled", message="saved")


class OutOfMemoryError(RuntimeError):
    """An error with the name of torch's own."""


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (SpecInvalid("rank", allowed="above 0", value=0), "failed", "bad_input"),
        (AdapterNotFound("bio"), "failed", "bad_input"),
        (Incompatible("no base model fits"), "failed", "bad_input"),
        (TrainingDiverged("loss is nan"), "failed", "error"),
        (StopRequested("asked"), "cancelled", "cancelled"),
        (TrainingStopped("asked"), "cancelled", "cancelled"),
        (DiskFull("no room"), "failed", "disk_full"),
        (OSError(errno.ENOSPC, "No space left on device"), "failed", "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "failed", "disk_full"),
        (OSError(errno.EACCES, "Permission denied"), "failed", "error"),
        (SchemaMismatch("of another release"), "failed", "infra"),
        (MemoryError(), "failed", "host_oom"),
        (OutOfMemoryError("CUDA out of memory"), "failed", "cuda_oom"),
        # Messages of torch 2.13 and libraries below it, which have no error class of their own.
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "failed", "cuda_oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublas`"), "failed", "cuda_oom"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "failed", "error"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "failed", "error"),
        (ValueError("CUDA out of memory"), "failed", "error"),
        (ZeroDivisionError("division by zero"), "failed", "error"),
    ],
)
def test_an_error_has_a_state_and_a_reason(error: BaseException, state: str, reason: str) -> None:
    assert (failure(error).state, failure(error).reason) == (state, reason)


#: Classes that say themselves what a job ends for; theirs hold for what is derived from them.
STATED: dict[type[BaseException], str] = {
    errors.RegistryError: "error",
    errors.NotFound: "bad_input",
    errors.Conflict: "error",
    errors.InvalidInput: "bad_input",
    errors.Incompatible: "bad_input",
    errors.ArtifactError: "bad_input",
    errors.DiskFull: "disk_full",
    StoreUnreachable: "infra",
    errors.SchemaMismatch: "infra",
    errors.ServiceUnreachable: "infra",
    engine_errors.EngineError: "error",
    engine_errors.ConfigInvalid: "bad_input",
    engine_errors.ExpertInvalid: "bad_input",
    engine_errors.SavedModelInvalid: "bad_input",
    engine_errors.HubUnavailable: "error",
    engine_errors.BaseUnsupported: "bad_input",
    engine_errors.ChatInvalid: "bad_input",
    engine_errors.NoEffect: "bad_input",
    engine_errors.ScoreNotFinite: "bad_input",
    engine_errors.TrainingDiverged: "error",
    workers_errors.WorkersError: "error",
    workers_errors.SpecInvalid: "bad_input",
    workers_errors.NoExpertHelps: "bad_input",
    workers_errors.NothingMeasured: "bad_input",
    workers_errors.GpuBusy: "infra",
    workers_errors.GpuUnusable: "infra",
}


def descendants(root: type[BaseException]) -> list[type[BaseException]]:
    return [root, *(below for derived in root.__subclasses__() for below in descendants(derived))]


@pytest.mark.parametrize(("root", "reason"), STATED.items())
def test_an_error_class_says_what_a_job_ends_for_and_so_do_those_below_it(
    root: type[BaseException], reason: str
) -> None:
    assert reason in REASONS
    for below in descendants(root):
        nearest = next(base for base in below.__mro__ if base in STATED)
        # Made without its arguments: what it is decides, not its message.
        assert failure(below.__new__(below)).reason in (STATED[nearest], "cancelled")


def test_a_reason_of_another_meaning_is_not_taken_for_ours() -> None:
    error = UnicodeDecodeError("utf-8", b"x", 0, 1, "infra")
    assert (error.reason, failure(error).reason) == ("infra", "error")


def test_the_processors_memory_that_runs_out_inside_torch_is_no_mere_error() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert failure(raised.value).reason == "host_oom"


def test_an_error_of_ours_keeps_its_code_in_the_message() -> None:
    assert failure(AdapterNotFound("bio")).message == (
        "[ZOO-E212] no adapter 'bio'; list them with: zoo adapters ls"
    )
    assert failure(ZeroDivisionError("by zero")).message == "ZeroDivisionError: by zero"


@pytest.mark.parametrize(
    ("result", "exit_code", "asked_because", "memory_ran_out", "state", "reason"),
    [
        (SUCCESS, 0, None, False, "succeeded", "ok"),
        (SUCCESS, 0, "cancelled", False, "succeeded", "ok"),
        (SUCCESS, 0, "deadline", False, "succeeded", "ok"),
        (CANCELLED, 0, "cancelled", False, "cancelled", "cancelled"),
        (CANCELLED, 0, "deadline", False, "failed", "deadline"),
        (None, -9, "cancelled", False, "cancelled", "cancelled"),
        (None, -9, "deadline", False, "failed", "deadline"),
        (None, -9, None, True, "failed", "host_oom"),
        (None, -9, None, False, "failed", "poison"),
        (None, -11, None, True, "failed", "poison"),
        (None, 1, None, False, "failed", "poison"),
        (None, EXIT_ABANDONED, None, False, "failed", "infra"),
        (CANCELLED, 0, "drained", False, "queued", "drained"),
        (None, -9, "drained", False, "queued", "drained"),
    ],
)
def test_the_supervisor_concludes(
    result: Result | None,
    exit_code: int,
    asked_because: str | None,
    memory_ran_out: bool,
    state: str,
    reason: str,
) -> None:
    end = conclude(result, exit_code=exit_code, asked_because=asked_because, memory_ran_out=memory_ran_out)
    assert (end.state, end.reason) == (state, reason)


def test_a_result_comes_back_for_its_own_fence_only(tmp_path: Path) -> None:
    write_result(tmp_path, 2, SUCCESS)
    assert read_result(tmp_path, 2) == SUCCESS
    assert read_result(tmp_path, 3) is None


@pytest.mark.parametrize("content", ["", '{"state": "succ', "[]", json.dumps({"state": "succeeded"})])
def test_a_torn_result_is_no_result(tmp_path: Path, content: str) -> None:
    result_path(tmp_path, 1).write_text(content)
    assert read_result(tmp_path, 1) is None
