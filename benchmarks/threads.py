"""`python -m benchmarks.threads`: what settings of OpenMP cost a training, alone and beside a busy process.

One process for each setting trains the same adapter; they take turns of a few steps, alone and beside a
process that keeps one core busy, so that whatever else the machine does befalls all of them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.__main__ import HOME

#: Setting -> what it changes in the environment; OpenMP reads it once, when a process starts.
SETTINGS: dict[str, dict[str, str]] = {
    "as OpenMP has it": {},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 100": {"GOMP_SPINCOUNT": "100"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "by load": {"BY_LOAD": "1"},
}
_THREADS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_BUSY = "while True: pass"


class Trainer:
    """A process that trains when it is told to."""

    def __init__(self, changes: dict[str, str], home: Path) -> None:
        environ = {name: value for name, value in os.environ.items() if name not in _THREADS}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.threads", "--serve", "--home", str(home)],
            env={**environ, **changes},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def seconds_a_step(self, steps: int) -> list[float]:
        """The duration of each of some further steps."""
        print(steps, file=self._process.stdin, flush=True)
        found: list[float] = json.loads(self._answer())
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        if self._process.stdout is None or not (line := self._process.stdout.readline()):
            raise SystemExit(f"a trainer ended with code {self._process.wait()}; see its error above")
        return line


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each setting in a round, after as many more")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--home", type=Path, default=HOME, help="folder of the base model")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        _serve(asked.home)
        return
    trainers = {name: Trainer(SETTINGS[name], asked.home) for name in asked.settings.split(",")}
    # In a session of its own, as another user's: Linux shares processors among sessions.
    busy = subprocess.Popen([sys.executable, "-c", _BUSY], start_new_session=True)
    measured: dict[tuple[str, bool], list[float]] = {}
    try:
        for number in range(asked.rounds):
            for is_beside in (False, True) if number else (False,):
                busy.send_signal(signal.SIGCONT if is_beside else signal.SIGSTOP)
                for name, trainer in trainers.items():
                    # What follows the load needs some steps to notice who had the processors before.
                    taken = trainer.seconds_a_step(2 * asked.steps)[asked.steps :]
                    print(f"{name}, beside {is_beside}: {median(taken):.2f} s", file=sys.stderr, flush=True)
                    if number:  # the first round warms up
                        measured.setdefault((name, is_beside), []).extend(taken)
    finally:
        busy.kill()
        for trainer in trainers.values():
            trainer.close()
        _show(measured)


def _show(measured: dict[tuple[str, bool], list[float]]) -> None:
    print("| setting | alone, s a step | beside a busy process |\n|---|---|---|")
    for name in dict.fromkeys(name for name, _ in measured):
        alone, beside = (measured.get((name, is_beside), [float("nan")]) for is_beside in (False, True))
        print(f"| {name} | {median(alone):.2f} | {median(beside):.2f} |")


def _serve(home: Path) -> None:
    """Train; each line of the input allows as many steps as it says, whose seconds are the answer."""
    import tempfile
    from dataclasses import replace

    import torch

    from benchmarks.subject import DTYPE, TRAINING, domain_examples
    from examples.demo import find_gguf
    from workers.processes.spinning import limit_spinning
    from xlora_engine.adapter_training.callbacks import StepMetrics
    from xlora_engine.adapter_training.train_adapter import train_adapter
    from xlora_engine.sources.base_model import convert_gguf, load_base, load_tokenizer

    folder = home / "base"
    if not folder.exists():
        convert_gguf(find_gguf(), folder)
    base = load_base(folder, dtype=DTYPE, device=torch.device("cpu"))
    tokenizer = load_tokenizer(folder)
    if os.environ.get("BY_LOAD"):
        limit_spinning()
    print(flush=True)
    allowed = int(input())
    seconds: list[float] = []
    started = time.monotonic()

    def on_step(_: StepMetrics) -> None:
        nonlocal allowed, started
        seconds.append(time.monotonic() - started)
        if len(seconds) == allowed:
            print(json.dumps(seconds), flush=True)
            seconds.clear()
            allowed = int(input())
        started = time.monotonic()

    with tempfile.TemporaryDirectory() as made:
        train_adapter(
            base,
            tokenizer,
            # One batch, so that all steps are alike.
            domain_examples(tokenizer, "train")["bio"][: TRAINING.batch_size],
            replace(TRAINING, steps=100_000),
            base_name="smollm2",
            folder=Path(made),
            on_step=on_step,
        )


if __name__ == "__main__":
    main()
