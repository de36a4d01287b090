"""What the state of a transformers Trainer says of a training: steps, losses, the best checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from registry.errors import InvalidAdapter
from registry.files.regular_files import read_bounded

TRAINER_STATE_FILE = "trainer_state.json"
#: A line of the log of each of 100,000 steps.
_LIMIT_BYTES = 64 * 1024 * 1024
_LARGEST = 2**53


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """A training in a few numbers; None is what the file does not say. Losses are in nats per token."""

    steps: int | None = None
    epochs: float | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    last_eval_loss: float | None = None
    lowest_eval_loss: float | None = None
    best_metric: float | None = None
    #: The name of its folder.
    best_checkpoint: str | None = None

    def stated(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def read_trainer_state(path: Path) -> TrainerState | None:
    """The state in a trainer_state.json; None where the file cannot be read or is no such state.

    A Trainer writes NaN as Python does; a number that is not finite is left out.
    """
    try:
        state = json.loads(read_bounded(path, limit_bytes=_LIMIT_BYTES, refusal=InvalidAdapter))
    except (InvalidAdapter, ValueError, RecursionError):
        return None
    if not isinstance(state, Mapping):
        return None
    log = state.get("log_history")
    entries = [entry for entry in log if isinstance(entry, Mapping)] if isinstance(log, list) else []
    losses = [loss for entry in entries if (loss := _number(entry.get("loss"))) is not None]
    eval_losses = [loss for entry in entries if (loss := _number(entry.get("eval_loss"))) is not None]
    steps = _number(state.get("global_step"))
    return TrainerState(
        steps=None if steps is None else int(steps),
        epochs=_number(state.get("epoch")),
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        last_eval_loss=eval_losses[-1] if eval_losses else None,
        lowest_eval_loss=min(eval_losses, default=None),
        best_metric=_number(state.get("best_metric")),
        best_checkpoint=_best(state),
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # False of NaN and infinity too.
    return float(value) if is_number and abs(value) < _LARGEST else None


def _best(state: Mapping[str, Any]) -> str | None:
    """The last name of the path, which was another machine's."""
    path = state.get("best_model_checkpoint")
    if isinstance(path, str) and path.isprintable():
        name = path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
        return name[:128] or None
    steps = _number(state.get("best_global_step"))
    return f"checkpoint-{int(steps)}" if steps else None
