"""How long an expert's gate is trained."""

from typing import ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked
from formats.errors import InvalidField
from xlora_engine.errors import ConfigInvalid


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class GateTraining(Checked):
    """Budget of a gate.

    Raises:
        ConfigInvalid: a field is unknown or out of range.
    """

    what: ClassVar[str] = "gate training"
    refusal: ClassVar[type[InvalidField]] = ConfigInvalid

    steps: int = Field(default=100, ge=1, description="Optimiser steps, as many as the paper takes.")
    batch_size: int = Field(default=4, ge=1, description="Examples for each step.")
    learning_rate: float = Field(default=5e-3, gt=0, description="Adam's learning rate.")
    seed: int = Field(default=0, description="Decides the order of the examples.")
