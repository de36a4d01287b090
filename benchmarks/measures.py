"""What is measured of a contender: seconds and peak memory of each task."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.contenders import Contender
from benchmarks.prompts import chats
from xlora_engine.chat import ChatTokenizer


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task and its size."""

    what: str
    rows: int
    #: Of the prompt, or of the scored or trained rows.
    tokens: int
    new_tokens: int = 0


#: Name -> task; the names are those of the results.
TASKS: dict[str, Task] = {
    "generate, batch 1": Task(what="generate", rows=1, tokens=256, new_tokens=128),
    "generate, batch 8": Task(what="generate", rows=8, tokens=256, new_tokens=128),
    "score": Task(what="score", rows=8, tokens=128),
    "training step": Task(what="train", rows=4, tokens=96),
}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One repetition. On a shared machine CPU time is the steadier of the two times."""

    seconds: float
    cpu_seconds: float
    #: The most the process (or the GPU) held while it ran, model included.
    peak_bytes: int


def measure(
    contender: Contender, task: Task, tokenizer: ChatTokenizer, *, repetition: int, device: torch.device
) -> Measurement | None:
    """Do the task once; None if the contender does not do it. Every repetition has other input."""
    ids = chats(tokenizer, rows=task.rows, tokens=task.tokens, start=repetition).to(device)
    if task.what == "train":
        return None if contender.prepare_step is None else timed(contender.prepare_step(ids), device)
    with torch.no_grad():
        if task.what == "score":
            return timed(lambda: contender.score(ids), device)
        return timed(lambda: contender.generate(ids, task.new_tokens), device)


def timed(act: Callable[[], object], device: torch.device) -> Measurement:
    """Run it between two looks at the clocks, the device idle at both."""
    _forget_peak(device)
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    _wait(device)
    return Measurement(
        seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
        peak_bytes=_peak(device),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (forget := Path("/proc/self/clear_refs")).exists():
        forget.write_text("5", encoding="ascii")  # proc(5): resets the peak resident set size


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if (status := Path("/proc/self/status")).exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
