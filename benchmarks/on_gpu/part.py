"""One part in this process: `python -m benchmarks.on_gpu.part NAME --rows FILE`."""

import argparse
import importlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.on_gpu.parts import PARTS, Run, Setting
from benchmarks.on_gpu.rows import Row


def main() -> None:
    """Run it, and write each row when it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=tuple(PARTS))
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    transformers_logging.disable_progress_bar()
    run: Run = importlib.import_module(PARTS[asked.name].module).run
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(device=torch.device(asked.device), quick=asked.quick, folder=Path(folder))
        run(setting, _writer(asked.name, asked.rows))


def _writer(name: str, path: Path) -> Callable[[Row], None]:
    return lambda row: replace(row, part=name).append_to(path)


if __name__ == "__main__":
    main()
