"""Load of the machine while a job runs, sampled under the names that MLflow's own sampler gives."""

import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_BYTES_PER_MEGABYTE = 1_000_000
#: MLflow's pages keep these on a tab of their own.
_PREFIX = "system/"

#: Receives the values of a sample and its number.
Record = Callable[[Mapping[str, float], int], None]


class SystemMetrics:
    """A thread that samples while the block runs; `every_s` None: none."""

    def __init__(self, record: Record, *, folder: Path, every_s: float | None) -> None:
        """`folder` is on the disk whose usage is sampled."""
        self._record = record
        self._folder = folder
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)

    def __enter__(self) -> Self:
        if self._every_s is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        sent_before, received_before = _network_megabytes()
        psutil.cpu_percent()  # the first answer has nothing to compare with
        number = 0
        while not self._stopping.wait(self._every_s):
            sent, received = _network_megabytes()
            network = {
                "network_transmit_megabytes": sent - sent_before,
                "network_receive_megabytes": received - received_before,
            }
            sampled = {**_machine(self._folder), **network, **_gpus()}
            self._record({f"{_PREFIX}{name}": value for name, value in sampled.items()}, number)
            number += 1


def _machine(folder: Path) -> dict[str, float]:
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / _BYTES_PER_MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_megabytes": disk.used / _BYTES_PER_MEGABYTE,
        "disk_usage_percentage": disk.percent,
    }


def _network_megabytes() -> tuple[float, float]:
    """Sent and received since the machine started."""
    counted = psutil.net_io_counters()
    if counted is None:  # a container without a network
        return 0.0, 0.0
    return counted.bytes_sent / _BYTES_PER_MEGABYTE, counted.bytes_recv / _BYTES_PER_MEGABYTE


def _gpus() -> dict[str, float]:
    """Memory of the GPUs of this process, once it uses them."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return {}
    used: dict[str, float] = {}
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        used[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / _BYTES_PER_MEGABYTE
        used[f"gpu_{index}_memory_usage_percentage"] = round((total - free) / total * 100, 1)
    return used
