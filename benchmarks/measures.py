"""The measurement of a contender: seconds and peak memory of each task."""

import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.contenders import Contender
from benchmarks.memory import cache_bytes, model_bytes
from benchmarks.prompts import all_labelled, answers_labelled, chats
from xlora_engine.data.chat import ChatTokenizer

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task and its size."""

    what: str
    batch_size: int
    #: Length of the prompt, or of the scored or trained sequences.
    tokens: int
    new_tokens: int = 0
    #: In a training step: whether every token is a label, or each sequence's last answer alone.
    all_labels: bool = False


#: Name -> task; the names are those of the results.
TASKS: dict[str, Task] = {
    "generate, batch 1": Task(what="generate", batch_size=1, tokens=256, new_tokens=128),
    "generate, batch 8": Task(what="generate", batch_size=8, tokens=256, new_tokens=128),
    "score": Task(what="score", batch_size=8, tokens=128),
    "training step": Task(what="train", batch_size=4, tokens=96),
    "training step, all labels": Task(what="train", batch_size=4, tokens=96, all_labels=True),
}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One repetition; on a shared machine CPU time varies less than wall time."""

    seconds: float
    cpu_seconds: float
    #: Peak memory of the process (or the GPU), model included.
    peak_bytes: int
    #: The part of it that was in use before a model was loaded: the interpreter and its libraries.
    idle_bytes: int = 0
    #: The tensors that are needed: base model, experts, head, and cached keys and values.
    tensor_bytes: int = 0


def measure(
    contender: Contender, task: Task, tokenizer: ChatTokenizer, *, repetition: int, device: torch.device
) -> Measurement:
    """Do the task once, on input of this repetition's own."""
    size = {"batch_size": task.batch_size, "tokens": task.tokens, "start": repetition}
    model = model_bytes(contender.model)
    if task.what == "train":
        examples = (all_labelled if task.all_labels else answers_labelled)(tokenizer, **size)
        return replace(timed(contender.prepare_step(examples), device), tensor_bytes=model)
    ids = chats(tokenizer, **size).to(device)
    if task.what == "score":
        with torch.no_grad():
            return replace(timed(lambda: contender.score(ids), device), tensor_bytes=model)
    made: list[object] = []
    found = timed(lambda: made.append(contender.generate(ids, task.new_tokens)), device)
    return replace(found, tensor_bytes=model + cache_bytes(made[0]))


def timed(act: Callable[[], object], device: torch.device) -> Measurement:
    """Run `act` and measure it, with the device idle before and after."""
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


def give_memory_back() -> None:
    """Return freed memory to the system, because what glibc keeps would count as the next task's."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (forget := Path("/proc/self/clear_refs")).exists():
        forget.write_text("5", encoding="ascii")  # proc(5): resets the peak resident set size


def resident_bytes(device: torch.device) -> int:
    """Memory that the process (or the GPU) uses now."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return _status("VmRSS") if _STATUS.exists() else 0


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
