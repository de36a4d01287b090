"""What a program that loads models found of an adapter before it was registered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from registry.entities import BaseModel


@dataclass(frozen=True, kw_only=True)
class ProvenAdapter:
    """An adapter that computes what it is to compute."""

    #: Mean divergence in nats from its base model, on fixed inputs; None where the base model was not run.
    effect_score: float | None
    #: With what it was compared, and how far it was from that, for the record.
    comparison: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CheckedAdapter:
    """An adapter whose files are checked and not yet stored."""

    name: str
    base: BaseModel
    #: Holds the files that are to be stored.
    folder: Path
    #: The adapter_config.json that came with them; None where their keys are no longer those of it.
    given_config: bytes | None


#: Compares what is to be stored with what PEFT makes of it; raises InvalidAdapter where that is another.
ProveAdapter: TypeAlias = Callable[[CheckedAdapter], ProvenAdapter]
