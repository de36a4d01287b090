"""Checkpoints of a stage of head training, written at intervals and when it is stopped."""

import io
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from xlora_engine.head_training.best_state import BestState
from xlora_engine.sources.manifest import OnDiscarded, last_complete, write_manifest

_log = logging.getLogger(__name__)

_STATE_FILE = "state.pt"


class StageCheckpoints:
    """A folder that holds the newest checkpoint of one run; those of other runs are removed."""

    def __init__(
        self,
        folder: Path,
        *,
        run: str,
        every_s: float = 60.0,
        on_discarded: OnDiscarded = _log.warning,
    ) -> None:
        """`run` is what the result of the stage depends on, in words as `last_complete` takes them."""
        self._folder = folder
        self._run = run
        self._every_s = every_s
        self._on_discarded = on_discarded
        self._written_at = time.monotonic()

    def last(self) -> dict[str, Any] | None:
        """The newest complete state; None if there is none that this torch can read."""
        whole = last_complete(self._folder, run=self._run, on_discarded=self._on_discarded)
        if whole is None:
            return None
        try:
            state: dict[str, Any] = torch.load(whole / _STATE_FILE, weights_only=True, map_location="cpu")
        except (RuntimeError, UnpicklingError) as error:
            self._on_discarded(f"{whole.name} is not taken up: it cannot be read ({error})")
            return None
        return state

    @property
    def is_due(self) -> bool:
        """Whether it is time to write another one."""
        return time.monotonic() - self._written_at >= self._every_s

    def write(self, step: int, state: Mapping[str, Any]) -> None:
        """Keep the state of a step: tensors, numbers, and lists and mappings of them.

        If the disk has no room for it, the last one stays, and training goes on.
        """
        path = self._folder / f"checkpoint-{step}"
        self._written_at = time.monotonic()
        try:
            self._write(path, state)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            _log.warning("no checkpoint of step %d: %s", step, error)
            return
        for older in self._folder.glob("checkpoint-*"):
            if older != path:
                shutil.rmtree(older)

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        if path.exists():
            return
        path.mkdir(parents=True)
        # When writing to a file itself, torch does not report a full disk as such.
        content = io.BytesIO()
        torch.save(dict(state), content)
        (path / _STATE_FILE).write_bytes(content.getbuffer())
        write_manifest(path, run=self._run)


@dataclass(frozen=True, eq=False)
class StageState:
    """Everything that a step changes and the next one needs, except the data order: the seed decides it."""

    trained: Mapping[str, Tensor]
    optimiser: torch.optim.Optimizer
    best: BestState
    device: torch.device

    def state(self, step: int) -> dict[str, Any]:
        """For a checkpoint."""
        random_states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_states["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "step": step,
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "optimiser": self.optimiser.state_dict(),
            "best": self.best.state(),
            "random_states": random_states,
        }

    def load(self, state: Mapping[str, Any]) -> int:
        """Restore from a checkpoint; returns its step."""
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(state["trained"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best.load(state["best"])
        torch.set_rng_state(state["random_states"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["random_states"]:
            torch.cuda.set_rng_state(state["random_states"]["cuda"], self.device)
        return int(state["step"])
