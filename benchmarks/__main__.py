"""`python -m benchmarks`: every contender in its own process, in turn; ratios go to a file and the screen."""

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.process import ContenderProcess, serve
from benchmarks.ratios import Sample, summarise, table
from benchmarks.subject import HEAD, Subject, find_or_make

HOME = Path.home() / ".cache" / "adapter-zoo-bench"

#: PEFT recomputes every token at each step, so it generates this many new tokens and its time is scaled up.
PEFT_NEW_TOKENS = 4


def main() -> None:
    """Measure, and write the results."""
    asked = _parser().parse_args()
    if asked.serve:
        subject = Subject.read(asked.subject)
        serve(asked.serve, subject, device_name=asked.device, threads=asked.threads, tasks=sys.stdin)
        return
    head = replace(HEAD, scaling_pass_value=asked.scaling_pass_value)
    record = asked.subject or find_or_make(asked.home, head)
    contenders = asked.contenders.split(",")
    processes = {
        name: ContenderProcess(name, record, device=asked.device, threads=asked.threads)
        for name in contenders
    }
    measured: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for name, process in processes.items():
        measured["load", name].append(_sample(process.load))
    peaks: dict[tuple[str, str], float] = {}
    started = time.monotonic()
    for task in asked.tasks.split(";"):
        for repetition in range(-1, asked.repetitions):  # the first is a warm-up, on input of its own
            for name, process in processes.items():
                whole = asked.new_tokens or 128
                new = min(PEFT_NEW_TOKENS, whole) if name == "peft" else whole
                slow = name == "peft" and task.startswith("generate")
                if (repetition < 0 and slow) or time.monotonic() - started > asked.seconds:
                    continue
                found = process.measure(
                    task, repetition=max(repetition, 0), new_tokens=new, fresh=(task, name) not in peaks
                )
                found["peak_bytes"] = peaks.setdefault((task, name), found["peak_bytes"])
                if repetition >= 0:
                    factor = whole / new if task.startswith("generate") else 1.0
                    sample = _sample(found, factor)
                    measured[task, name].append(sample)
                    print(f"{task}: {name} {sample.seconds:.2f} s", file=sys.stderr, flush=True)
    for process in processes.values():
        process.close()
    results = summarise(measured)
    asked.out.write_text(json.dumps([asdict(result) for result in results], indent=1), encoding="utf-8")
    print(table(results))


def _sample(found: dict[str, float], factor: float = 1.0) -> Sample:
    return Sample(
        seconds=found["seconds"] * factor,
        cpu_seconds=found["cpu_seconds"] * factor,
        peak_mib=(found["peak_bytes"] - found["idle_bytes"]) / 2**20,
        tensors_mib=found["tensor_bytes"] / 2**20,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no task after this time")
    parser.add_argument("--new-tokens", type=int, default=None, help="instead of 128")
    parser.add_argument(
        "--tasks", default="generate, batch 1;generate, batch 8;score;training step;training step, all labels"
    )
    parser.add_argument("--contenders", default="base,loaded base,peft,two caches,ours")
    parser.add_argument("--home", type=Path, default=HOME, help="folder of the models that are measured")
    parser.add_argument(
        "--scaling-pass-value",
        type=float,
        default=HEAD.scaling_pass_value,
        help="scaling of each expert in the scaling pass; `zoo compose` takes 0.3333 for three experts",
    )
    parser.add_argument("--subject", type=Path, help="a subject.json of another base model and composition")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
