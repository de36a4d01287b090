"""One adapter trained by two processes, a GPU each, against one process: equal weights."""

from collections.abc import Callable

import torch
from safetensors.torch import load_file

from benchmarks.on_gpu.home import DOMAINS, Home, stocked
from benchmarks.on_gpu.parts import Setting
from benchmarks.on_gpu.rows import Row


def run(setting: Setting, say: Callable[[Row], None]) -> None:
    """Says so where there are not two GPUs."""
    if setting.device.type == "cuda" and torch.cuda.device_count() < 2:
        note = f"{torch.cuda.device_count()} GPU here, two are needed"
        say(Row(part="", what="largest difference of a weight", value=None, note=note))
        return
    home = stocked(setting)
    for processes in (1, 2):
        name = f"by{processes}"
        options = ("--name", name, "--processes", str(processes), "--learning-rate", "1e-3")
        home.run(*home.train(DOMAINS[0], *options), "-q")
    one, two = (_weights(home, f"by{processes}") for processes in (1, 2))
    largest = max(float((one[key] - two[key]).abs().max()) for key in one)
    bar = 5e-6 if setting.device.type == "cpu" else 1e-2
    say(Row(part="", what="largest difference of a weight", value=largest, at_most=bar))


def _weights(home: Home, name: str) -> dict[str, torch.Tensor]:
    folder = home.folder / f"exported-{name}"
    home.run("export", name, str(folder), "-q")
    return load_file(folder / "adapter_model.safetensors")
