"""Two jobs, or two workers, never share a GPU, and the GPU of a dead one is free at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.errors import GpuBusy, SpecInvalid
from workers.processes import gpus as machine
from workers.processes.gpus import gpus_for, limited_to, lock_gpus, offered, serve_gpus, visible_gpus


@pytest.fixture(autouse=True)
def _no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the GPUs of this machine."""
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "nothing")


_HOLDER = """
import sys, time
from pathlib import Path
from workers.processes.gpus import lock_gpus, serve_gpus
lock_gpus(["0", "1"], folder=Path(sys.argv[1]))
serve_gpus(["gpu"], folder=Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder)],
        cwd=root,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "0,1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.processes
def test_a_gpu_that_another_process_holds_is_refused_by_name(tmp_path: Path) -> None:
    with holder(tmp_path), pytest.raises(GpuBusy, match="GPU 1"):
        lock_gpus(["1"], timeout_s=0.1, folder=tmp_path)


@pytest.mark.processes
def test_a_killed_holder_frees_its_gpus_and_others_are_free_anyway(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        lock_gpus(["2"], timeout_s=0, folder=tmp_path)
        process.kill()
        process.wait()
        assert len(lock_gpus(["1", "0"], timeout_s=2, folder=tmp_path)) == 2


@pytest.mark.processes
@pytest.mark.parametrize("queues", [["gpu"], ["cpu", "gpu"]])
def test_a_second_worker_of_a_gpu_is_refused_with_the_first_ones_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queues: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    with holder(tmp_path) as process:
        with pytest.raises(GpuBusy, match=rf"process {process.pid}, serves GPU 1 already"):
            serve_gpus(queues, timeout_s=0.1, folder=tmp_path)
        process.kill()
        process.wait()
        assert len(serve_gpus(queues, timeout_s=2, folder=tmp_path)) == 2


@pytest.mark.processes
def test_workers_that_serve_no_gpu_see_none_and_are_as_many_as_one_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with holder(tmp_path):
        assert serve_gpus(["cpu"], timeout_s=0, folder=tmp_path) == []
    assert visible_gpus(os.environ) == ()


def test_a_workers_lock_leaves_the_gpu_to_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    serve_gpus(["gpu"], timeout_s=0, folder=tmp_path)
    assert len(lock_gpus(["3"], timeout_s=0, folder=tmp_path)) == 1


@pytest.mark.parametrize(
    ("environ", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, ("0",)),
        ({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}, ("2", "GPU-ab")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "MIG-4,GPU-1"}, ("MIG-4", "GPU-1")),
        ({"CUDA_VISIBLE_DEVICES": "1,0,1"}, ("1", "0")),
    ],
)
def test_the_environment_decides_which_gpus_there_are(environ: dict[str, str], gpus: tuple[str, ...]) -> None:
    assert visible_gpus(environ) == gpus


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("0000:17:00.0", "0000:65:00.0"):
        (tmp_path / "driver" / address).mkdir(parents=True)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "driver")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("environ", "gpus"),
    [
        ({}, ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "1,2,0"}, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-ab"}, ("GPU-ab",)),
    ],
)
def test_a_number_that_the_driver_does_not_have_is_no_gpu(
    environ: dict[str, str], gpus: tuple[str, ...]
) -> None:
    assert visible_gpus(environ) == gpus


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("text", ["2", "0,2", "-1", "0,0"])
def test_a_worker_does_not_offer_what_is_not_there(text: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        offered(text)
    said = f"--gpu must be different GPUs of this machine (0, 1), by commas, got {text!r}"
    assert str(refused.value) == said


@pytest.mark.parametrize(("text", "value"), [("0", "0"), (" 1, 0", "1,0"), ("GPU-ab", "GPU-ab"), ("", "")])
def test_without_a_driver_a_worker_offers_the_gpus_that_are_named(text: str, value: str) -> None:
    assert offered(text) == value


@pytest.mark.parametrize(
    ("processes", "visible", "gpus"),
    [
        (1, ("0",), ("0",)),
        (1, ("0", "1"), ("0",)),
        (2, ("3", "GPU-ab", "5"), ("3", "GPU-ab")),
        (4, (), ()),
    ],
)
def test_each_process_has_a_gpu_and_a_job_no_more_than_that(
    processes: int, visible: tuple[str, ...], gpus: tuple[str, ...]
) -> None:
    assert gpus_for(processes, visible) == gpus


def test_more_processes_than_gpus_are_refused_with_what_there_is() -> None:
    with pytest.raises(SpecInvalid) as refused:
        gpus_for(3, ("0", "2"))
    assert str(refused.value) == (
        "processes must be at most 2, one for each GPU that may be used here (0, 2), got 3"
    )


def test_a_job_sees_its_own_gpus_alone_and_an_environment_without_any_stays_as_it_is() -> None:
    assert limited_to(("2", "GPU-ab")) == {"CUDA_VISIBLE_DEVICES": "2,GPU-ab"}
    assert limited_to(()) == {}
