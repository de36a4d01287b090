"""What decides how an adapter is trained: declared once, for requests, commands and the engine."""

import math
from typing import ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked, Distinct, Text
from formats.errors import InvalidField
from formats.target_modules import ALL_LINEAR
from xlora_engine.errors import ConfigInvalid

_STEPS = 10_000_000


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class TrainingSettings(Checked):
    """What a user may ask of training; equal settings and data give the same adapter.

    Raises:
        InvalidField: (the class's `refusal`) a field is out of its range, or the warm-up is too long.
    """

    rank: int = Field(default=8, ge=1, le=1024, description="Rank of the updates.")
    alpha: float = Field(default=16.0, gt=0, le=65_536, description="Updates are scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, le=0.95, description="Dropout before the updates, in training.")
    target_modules: Distinct[Text] = Field(
        default=(ALL_LINEAR,), min_length=1, description="Layers to adapt."
    )
    learning_rate: float = Field(
        default=2e-4, gt=0, le=1, description="Peak learning rate, after the warm-up."
    )
    steps: int = Field(default=200, ge=1, le=_STEPS, description="Optimiser steps.")
    batch_size: int = Field(default=8, ge=1, le=4096, description="Examples in each step.")
    warmup_steps: int = Field(
        default=10, ge=0, le=_STEPS, description="Steps over which the learning rate rises."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW's weight decay.")
    inactive_prefix: bool = Field(
        default=True,
        description="Train the adapter to be inactive on the tokens that all examples begin with, so that it"
        " behaves the same inside a mixture.",
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Decides initial values and data order.")
    checkpoint_every_s: float = Field(
        default=60.0, gt=0, le=86_400, description="Seconds between checkpoints."
    )

    def __post_init__(self) -> None:
        if self.warmup_steps > self.steps:
            raise self.refusal("warmup_steps", f"at most the {self.steps} steps", self.warmup_steps)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class AdapterTraining(TrainingSettings):
    """How an adapter is trained, with what only the engine's own callers choose.

    Raises:
        ConfigInvalid: a field is out of its range, or the warm-up is too long.
    """

    what: ClassVar[str] = "an adapter's training"
    refusal: ClassVar[type[InvalidField]] = ConfigInvalid

    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Sequences in one process's memory at once; fewer take longer and learn the same. Its"
        " whole share if left out.",
    )
    gradient_norm: float = Field(
        default=1.0, gt=0, description="Gradients are scaled down to this norm at most."
    )

    def parts(self, processes: int) -> int:
        """How many micro-batches a batch is cut into, the same number for each process.

        Raises:
            ConfigInvalid: the sequences of a batch cannot be shared out evenly.
        """
        if self.batch_size % processes:
            raise ConfigInvalid("batch_size", f"a multiple of {processes}, the processes", self.batch_size)
        share = self.batch_size // processes
        return processes * math.ceil(share / min(self.micro_batch_size or share, share))
