"""The parts of the proof, most worth first: a run that is cut has said most. A table, one row each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from benchmarks.on_gpu.rows import Row


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every part is run with."""

    device: torch.device
    #: Smaller models and fewer repetitions, to show that the parts run.
    quick: bool
    #: An empty folder of the part's own.
    folder: Path

    @property
    def dtype(self) -> torch.dtype:
        """What a GPU computes in; on a CPU bfloat16 would be emulated."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32


#: Runs a part and hands over each row as soon as it is known.
Run = Callable[[Setting, Callable[[Row], None]], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part: what it shows, the module whose `run` does it, and how long it may take."""

    what: str
    module: str
    limit_s: float


PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "parity": Part(
            what="the engine's results against the CPU's, PEFT's and its own slower ways",
            module="benchmarks.on_gpu.parity",
            limit_s=90,
        ),
        "generation": Part(
            what="tokens a second and memory, against the base model and PEFT",
            module="benchmarks.on_gpu.generation",
            limit_s=180,
        ),
        "training": Part(
            what="steps of head and adapter against PEFT's",
            module="benchmarks.on_gpu.training",
            limit_s=60,
        ),
        "decoding step": Part(
            what="synchronisations of a decoding step, and its time over that of its bytes",
            module="benchmarks.on_gpu.decoding_step",
            limit_s=75,
        ),
        "whole job": Part(
            what="`zoo` trains, composes and generates; locks; a GPU too full; a GPU that torch cannot use",
            module="benchmarks.on_gpu.whole_job",
            limit_s=200,
        ),
        "four bits": Part(
            what="a base model in four bits: generate, and train the head",
            module="benchmarks.on_gpu.four_bits",
            limit_s=60,
        ),
        "two processes": Part(
            what="one adapter trained by two processes, a GPU each",
            module="benchmarks.on_gpu.two_processes",
            limit_s=120,
        ),
    }
)
