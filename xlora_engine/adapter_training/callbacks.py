"""What happens at each step of transformers' Trainer: metrics, checkpoints, stopping, the inactive prefix."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME

from xlora_engine.adapter_training.inactive_prefix import InactivePrefix
from xlora_engine.adapter_training.settings import AdapterTraining
from xlora_engine.devices.process_group import ProcessGroup
from xlora_engine.errors import TrainingDiverged
from xlora_engine.sources.manifest import write_manifest

#: Files of a checkpoint that are never read: a pickle, and a card with the base model's path.
UNREAD_FILES = (TRAINING_ARGS_NAME, "README.md")

#: The first process's decision after a step.
_GO_ON, _SAVE, _STOP = range(3)


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """The values of one step."""

    step: int
    loss: float
    learning_rate: float
    #: Before it was scaled down.
    gradient_norm: float


class InactivePrefixCallback(TrainerCallback):
    """Keeps the adapter inactive on the shared prefix after every optimiser step."""

    def __init__(self, inactive: InactivePrefix) -> None:
        self._inactive = inactive

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """After every optimiser step, before a checkpoint is saved."""
        self._inactive.impose()


class StepCallback(TrainerCallback):
    """Observes every step; requests a checkpoint when one is due, and the end when asked to stop."""

    def __init__(
        self,
        settings: AdapterTraining,
        run: str,
        group: ProcessGroup,
        on_step: Callable[[StepMetrics], None],
        stop: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._run = run
        self._group = group
        self._on_step = on_step
        self._stop = stop
        self._saved_at = time.monotonic()
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """After every optimiser step."""
        decision = self._group.from_first(
            self._decision(state.global_step) if self._group.is_first else _GO_ON
        )
        control.should_save = control.should_save or decision != _GO_ON
        if decision == _STOP:
            self.stopped = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """When the Trainer has written a checkpoint."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._group.wait_for_all()  # each process writes the state of its random numbers
        if not self._group.is_first:
            return
        for name in UNREAD_FILES:
            (checkpoint / name).unlink(missing_ok=True)
        write_manifest(checkpoint, run=self._run)
        self._saved_at = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """With the loss of a step, before any checkpoint of it."""
        if "loss" not in (logs or {}):
            return
        step = StepMetrics(
            step=state.global_step,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            gradient_norm=float(logs["grad_norm"]),
        )
        for what, value in (("loss", step.loss), ("gradient norm", step.gradient_norm)):
            if not math.isfinite(value):
                raise TrainingDiverged(f"the {what} of step {step.step} is {value}; lower the learning rate")
        if self._group.is_first:
            self._on_step(step)

    def _decision(self, step: int) -> int:
        if self._stop() and step < self._settings.steps:
            return _STOP
        return _SAVE if time.monotonic() - self._saved_at >= self._settings.checkpoint_every_s else _GO_ON
