"""`python -m benchmarks.on_gpu --out DIR`: every part in a process of its own, within a time; one table last.

Needs torch with CUDA, this project's libraries (`make gpu-wheels` collects those that a machine lacks) and no
network: base models have random weights, made on the spot.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import transformers

from benchmarks.on_gpu.parts import PARTS
from benchmarks.on_gpu.rows import Row, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 1 if a figure missed its bar or a part did not end."""
    asked = _parser().parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + asked.seconds
    for name in asked.parts.split(","):
        rows = asked.out / f"{name.replace(' ', '-')}.jsonl"
        rows.unlink(missing_ok=True)
        _run(name, rows, asked, left_s=ends - time.monotonic())
        _write(asked.out, asked.device)
    print(_write(asked.out, asked.device))
    return int(any(row.met == "no" for row in _rows(asked.out)))


def _run(name: str, rows: Path, asked: argparse.Namespace, *, left_s: float) -> None:
    # Limits are for a GPU; a CPU that does other things besides takes longer.
    limit_s = min(PARTS[name].limit_s * (1 if asked.device.startswith("cuda") else 5), left_s)
    if limit_s < 5:
        Row(part=name, what="ran", value=None, at_least=1, note="no time was left").append_to(rows)
        return
    print(f"{name}: {PARTS[name].what} (at most {limit_s:.0f} s)", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.on_gpu.part", name, "--rows", str(rows)]
    command += ["--device", asked.device, *(["--quick"] if asked.quick else [])]
    log = asked.out / f"{rows.stem}.log"
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            ended = process.wait(limit_s)
            note = f"{time.monotonic() - started:.0f} s" if ended == 0 else f"exit {ended}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            ended, note = 1, f"cut after {limit_s:.0f} s; what it had is here"
        finally:
            _end_all(process)
    Row(part=name, what="ran", value=float(ended == 0), at_least=1, note=note).append_to(rows)


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End a part and what it started: on a GPU, what is left would hold memory that the next part needs."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].replace("|", "/")[:200] if lines else "it said nothing"


def _rows(out: Path) -> list[Row]:
    return [row for name in PARTS for row in Row.read(out / f"{name.replace(' ', '-')}.jsonl")]


def _write(out: Path, device: str) -> str:
    text = f"{_machine(device)}\n\n{table(_rows(out))}\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    return text


def _machine(device: str) -> str:
    on = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else "CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{on}, Python {platform.python_version()}, {versions}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table, the rows and the logs")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …; cpu to show that the parts run")
    parser.add_argument("--quick", action="store_true", help="small models, few repetitions")
    parser.add_argument("--seconds", type=float, default=480, help="begin nothing after this time")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of: {', '.join(PARTS)}")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
