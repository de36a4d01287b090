"""What a program that loads models found of an adapter before it was registered."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from registry.entities import BaseModel


@dataclass(frozen=True, kw_only=True)
class ProvenAdapter:
    """An adapter that computes what it is to compute."""

    #: Mean divergence in nats from its base model, on fixed inputs; None where the base model was not run.
    effect_score: float | None
    #: With what it was compared, and how far it was from that, for the record.
    comparison: Mapping[str, Any]


class ProveAdapter(Protocol):
    """Compares the files that are to be stored, in a folder, with what PEFT makes of them.

    `given` is the adapter_config.json that came with them, None where their keys are no longer those of it.
    """

    def __call__(self, base: BaseModel, stored: Path, *, name: str, given: bytes | None) -> ProvenAdapter: ...
