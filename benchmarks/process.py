"""A contender in a process of its own: tasks on stdin, measurements on stdout, a JSON line each."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from benchmarks.subject import Subject


def serve(contender: str, subject: Subject, *, device_name: str, threads: int, tasks: TextIO) -> None:
    """Load the contender, report how long that took, then do tasks until the input ends."""
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.contenders import CONTENDERS, PLAIN
    from benchmarks.measures import TASKS, Task, give_memory_back, measure, resident_bytes, timed
    from benchmarks.subject import DTYPE
    from xlora_engine.sources.base_model import load_base, load_tokenizer

    torch.set_num_threads(threads)
    device = torch.device(device_name)
    tokenizer = load_tokenizer(subject.base)
    give_memory_back()
    idle = resident_bytes(device)
    if contender in PLAIN:
        base: Any = AutoModelForCausalLM.from_pretrained(subject.base, dtype=DTYPE)
        base.requires_grad_(False).to(device).eval()
    else:
        base = load_base(subject.base, dtype=DTYPE, device=device)
    made: list[Any] = []
    load = timed(lambda: made.append(CONTENDERS[contender](base, subject)), device)
    _say(asdict(replace(load, idle_bytes=idle)))
    for line in tasks:
        asked = json.loads(line)
        task: Task = TASKS[asked["task"]]
        if asked["new_tokens"] is not None and task.new_tokens:
            task = Task(**{**asdict(task), "new_tokens": asked["new_tokens"]})
        if asked["fresh"]:
            give_memory_back()
        found = measure(made[0], task, tokenizer, repetition=asked["repetition"], device=device)
        _say(asdict(replace(found, idle_bytes=idle)))


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


class ContenderProcess:
    """The other end of `serve`."""

    def __init__(self, contender: str, subject_record: Path, *, device: str, threads: int) -> None:
        command = [sys.executable, "-m", "benchmarks", "--serve", contender, "--subject", str(subject_record)]
        # Threads that spin while they wait would take CPU time from the other contenders.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [*command, "--device", device, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.load: dict[str, float] = self._read()

    def measure(self, task: str, *, repetition: int, new_tokens: int | None, fresh: bool) -> dict[str, float]:
        """One measurement.

        `fresh` frees earlier tasks' memory first, so that the peak is this task's; it takes a little longer.
        """
        if self._process.stdin is None:
            raise BrokenPipeError("the contender's process accepts no tasks")
        asked = {"task": task, "repetition": repetition, "new_tokens": new_tokens, "fresh": fresh}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        found: dict[str, float] = self._read()
        return found

    def close(self) -> None:
        """End the process by closing its input."""
        self._process.communicate()

    def _read(self) -> Any:
        if self._process.stdout is None or not (line := self._process.stdout.readline()):
            raise SystemExit(f"a contender ended with code {self._process.wait()}; see its error above")
        return json.loads(line)
