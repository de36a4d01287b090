"""The machine's load is sampled while a block runs, and only where that was asked for."""

import threading
from collections.abc import Mapping
from pathlib import Path

from workers.processes.system_metrics import SystemMetrics


def test_samples_have_the_names_of_mlflow_and_end_with_the_block(tmp_path: Path) -> None:
    samples: list[tuple[int, Mapping[str, float]]] = []
    enough = threading.Event()

    def record(values: Mapping[str, float], step: int) -> None:
        samples.append((step, values))
        if step == 1:
            enough.set()

    with SystemMetrics(record, folder=tmp_path, every_s=0.01):
        assert enough.wait(10)
    taken = len(samples)
    assert [step for step, _ in samples[:2]] == [0, 1]
    assert 0 < samples[0][1]["system/system_memory_usage_percentage"] <= 100
    assert {"system/cpu_utilization_percentage", "system/disk_usage_megabytes"} <= samples[0][1].keys()
    assert "system metrics" not in {thread.name for thread in threading.enumerate()}
    assert len(samples) == taken


def test_nobody_who_did_not_ask_is_sampled(tmp_path: Path) -> None:
    with SystemMetrics(lambda *_: None, folder=tmp_path, every_s=None):
        assert "system metrics" not in {thread.name for thread in threading.enumerate()}
