"""How long and how carefully the two stages train a scaling head."""

from typing import ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked
from formats.errors import InvalidField
from xlora_engine.errors import ConfigInvalid


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class WarmStart(Checked):
    """Budget of the first stage.

    Raises:
        ConfigInvalid: a field is unknown or out of range.
    """

    what: ClassVar[str] = "a warm start"
    refusal: ClassVar[type[InvalidField]] = ConfigInvalid

    steps: int = Field(default=1000, ge=0, description="The most optimiser steps; 0 leaves this stage out.")
    tokens_per_step: int = Field(
        default=1024, ge=1, description="Tokens drawn for each step, uniformly from all examples."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="AdamW's learning rate.")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's weight decay.")
    # A head that never sees the same state twice is not overconfident on states it has seen.
    hidden_noise: float = Field(
        default=0.5,
        ge=0,
        description="Standard deviation of the noise on hidden states, as a share of each dimension's own.",
    )
    # The average of many steps generalises better than any of them to unseen wordings.
    averaging: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Share of the running average of weights that each step keeps; 0 keeps the last step's.",
    )
    evaluate_every: int = Field(
        default=40, ge=1, description="Steps between two evaluations of the held-out loss."
    )
    # Many, because the right expert's scaling goes on rising after cross-entropy has stopped falling.
    patience: int = Field(
        default=10, ge=1, description="Evaluations without a better held-out loss before training stops."
    )
    seed: int = Field(default=0, description="Decides initial values and draws.")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class MixtureTraining(Checked):
    """Budget of the second stage.

    Raises:
        ConfigInvalid: a field is unknown or out of range.
    """

    what: ClassVar[str] = "mixture training"
    refusal: ClassVar[type[InvalidField]] = ConfigInvalid

    steps: int = Field(default=60, ge=0, description="The most optimiser steps; 0 leaves this stage out.")
    budget_s: float | None = Field(
        default=None, gt=0, description="Seconds to train for, instead of a number of steps."
    )
    batch_size: int = Field(
        default=12, ge=1, description="Examples for each step, drawn from all domains in turn."
    )
    several_share: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="Share of a batch that examples of several experts take, where there are any.",
    )
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Sequences passed at once, whose gradients add up to the step's; all if left out. Less"
        " memory, the same step.",
    )
    learning_rate: float = Field(default=4e-3, gt=0, description="AdamW's highest learning rate.")
    warmup_steps: int = Field(
        default=4, ge=0, description="Steps over which the learning rate rises, before it falls to nothing."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    # What separates domains is learnt from all labelled tokens; a few batches would bend it to their own.
    shared_layers: bool = Field(
        default=True,
        description="Whether the head's layers before the last are trained, which all gates share.",
    )
    routing_weight: float = Field(
        default=0.3,
        ge=0,
        description="How much the routing loss of labelled tokens counts beside the language-model loss.",
    )
    load_penalty: float = Field(
        default=0.0,
        ge=0,
        description="How much uneven use of the experts counts, against a head that settles on one of them.",
    )
    routing_tokens: int = Field(default=512, ge=1, description="Labelled tokens drawn for each step.")
    hidden_noise: float = Field(
        default=0.5,
        ge=0,
        description="Standard deviation of the noise on labelled tokens, as a share of each dimension's own.",
    )
    gradient_norm: float = Field(
        default=1.0, gt=0, description="Gradients are scaled down to this norm at most."
    )
    evaluate_every: int = Field(
        default=10, ge=1, description="Steps between two evaluations of the held-out loss."
    )
    patience: int = Field(
        default=3, ge=1, description="Evaluations without a better held-out loss before training stops."
    )
    seed: int = Field(default=0, description="Decides the order of the examples.")
