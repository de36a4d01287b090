"""`zoo` itself: train, compose and generate; two jobs for one GPU; a GPU too full; a GPU torch cannot use."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.on_gpu.home import DOMAINS, Home, stocked
from benchmarks.on_gpu.parts import Setting
from benchmarks.on_gpu.rows import Row
from workers.processes.gpus import visible_gpus

#: A GPU that the driver does not have: it is asked for all the same, as a number would not be.
_NO_SUCH_GPU = "GPU-00000000-0000-0000-0000-000000000000"

#: What the full GPU has left: enough for the base model and some sequences of a step, not for all of them.
_LEFT_BYTES = 8 * 2**30

_NO_GPU = "there is no GPU"

Say = Callable[[Row], None]


def run(setting: Setting, say: Say) -> None:
    """Everything in one zoo."""
    home = stocked(setting)
    _lines_of_a_user(home, setting, say)
    if setting.device.type != "cuda":
        for what in ("two jobs, one GPU: both succeed", "GPU too full: memory cuts", "ZOO-E419"):
            say(Row(part="", what=what, value=None, note=_NO_GPU))
        return
    _two_at_once(home, say)
    _full_gpu(home, say)
    _unusable_gpu(home, say)


def _lines_of_a_user(home: Home, setting: Setting, say: Say) -> None:
    started = time.monotonic()
    for domain in DOMAINS:
        home.run(*home.train(domain, "--eval-data", f"{domain}.eval"), "-q")
    say(Row(part="", what="two adapters trained", value=time.monotonic() - started, unit="s"))
    found = {home.json("jobs", "show", str(job["id"]))["compute_dtype"] for job in home.json("jobs", "ls")}
    allowed = {"bfloat16"} if setting.device.type == "cuda" else {"bfloat16", "float32"}
    note = ", ".join(sorted(found))
    say(
        Row(
            part="",
            what="computed in the device's dtype",
            value=float(found <= allowed),
            at_least=1,
            note=note,
        )
    )
    started = time.monotonic()
    short = ("--warm-start-steps", "8", "--mixture-steps", "2")
    home.run("compose", "--adapters", ",".join(DOMAINS), "--name", "both", *short, "-q")
    say(Row(part="", what="composed, with its report", value=time.monotonic() - started, unit="s"))
    started = time.monotonic()
    answer = home.run("generate", "both", "bio question 1?", "--max-new-tokens", "16")
    note = f"{time.monotonic() - started:.1f} s"
    say(Row(part="", what="generated", value=float(bool(answer)), at_least=1, note=note))


def _two_at_once(home: Home, say: Say) -> None:
    """The second waits for the first one's lock on the GPU."""
    both = [home.start(*home.train(name, "--seed", "1"), "-q") for name in DOMAINS]
    ended = [process.wait() for process in both]
    value = float(ended == [0, 0])
    note = f"exits {ended}; GPUs to lock: {', '.join(visible_gpus(os.environ)) or 'none is known'}"
    say(Row(part="", what="two jobs, one GPU: both succeed", value=value, at_least=1, note=note))


def _unusable_gpu(home: Home, say: Say) -> None:
    """What is to use a GPU fails by name, and does not fall back to the processors."""
    process = subprocess.run(
        [sys.executable, "-P", "-m", "zoo", "generate", "both", "bio question 1?"],
        env={**home.environment, "CUDA_VISIBLE_DEVICES": _NO_SUCH_GPU},
        cwd=home.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    note = process.stderr.strip().rpartition("\n")[2].replace("|", "/")[:160]
    value = float("E419" in process.stderr and process.returncode != 0)
    say(Row(part="", what="ZOO-E419", value=value, at_least=1, note=note))


def _full_gpu(home: Home, say: Say) -> None:
    """A step that does not fit is tried again with smaller micro-batches, in the same job."""
    with _occupied():
        home.run(*home.train("long", "--batch-size", "32", "--seed", "3"), "-q")
    job = max(home.json("jobs", "ls"), key=lambda one: int(one["id"]))
    cuts = home.json("jobs", "show", str(job["id"]))["memory_cuts"]
    say(Row(part="", what="GPU too full: memory cuts", value=float(cuts), at_least=1, note=job["state"]))


@contextmanager
def _occupied() -> Iterator[None]:
    """Hold the GPU's memory but for a little."""
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(free - _LEFT_BYTES, 1), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()
