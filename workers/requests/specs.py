"""What a user asks for: train an adapter, evaluate subjects, compose a mixture. Frozen, stored as JSON.

References are resolved before a spec is made, so that it means the same tomorrow. Knows no registry and no
tensors: a spec that exists is in range, though what it names may not fit together.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

from registry.references import checked_name
from workers.errors import SpecInvalid
from workers.requests.field_rules import (
    integer,
    named_texts,
    number,
    optional,
    settings,
    settle,
    text,
    texts,
    yes_or_no,
)

#: every linear layer of the decoder except the output head
ALL_LINEAR = ("all-linear",)

#: What one machine may have of GPUs.
MOST_PROCESSES = 64

#: What base models call their embeddings; others are found out when the model is there.
_EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in"})

#: A domain has a row to train the scaling head on, and one held out to stop it in time.
LEAST_ROWS = 2

_REFERENCE_LENGTH = 256
_SEED = 2**32 - 1


class _Stored:
    """To JSON and back, for the dataclasses below."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them: lists for tuples, plain dicts for mappings."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        return {field.name: _plain(getattr(self, field.name)) for field in fields}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The spec that `to_json` described.

        Raises:
            SpecInvalid: a field is unknown, missing or out of its range.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in stored:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                allowed = f"called {near[0]!r} perhaps" if near else f"one of {', '.join(fields)}"
                raise SpecInvalid(f"the field name in a {cls.kind} spec", allowed=allowed, value=name)
        for name, field in fields.items():
            if name not in stored and _is_required(field):
                raise SpecInvalid(name, allowed=f"given in a {cls.kind} spec", value=None)
        return cls(**stored)

    @property
    def spec_digest(self) -> str:
        """SHA-256 of the canonical JSON: equal digests ask for the same thing."""
        canonical = json.dumps(
            {"kind": self.kind, **self.to_json()},
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
            ensure_ascii=False,
        )
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class TrainSpec(_Stored):
    """Train one LoRA adapter on one base model and one dataset."""

    kind: ClassVar[str] = "train"

    name: str = text(length=128)
    base: str = text(length=_REFERENCE_LENGTH)
    train_dataset: str = text(length=_REFERENCE_LENGTH)
    eval_dataset: str | None = optional(text(length=_REFERENCE_LENGTH))
    domains: tuple[str, ...] = texts(least=0, default=())
    rank: int = integer(1, 1024, default=8)
    #: the update is scaled by alpha / rank
    alpha: float = number(0.0, 65536.0, default=16.0, above=True)
    dropout: float = number(0.0, 0.95, default=0.0)
    target_modules: tuple[str, ...] = texts(least=1, default=ALL_LINEAR)
    learning_rate: float = number(0.0, 1.0, default=2e-4, above=True)
    steps: int = integer(1, 10_000_000, default=200)
    batch_rows: int = integer(1, 4096, default=8)
    #: share the rows of each batch: one GPU each where there are any
    processes: int = integer(1, MOST_PROCESSES, default=1)
    warmup_steps: int = integer(0, 10_000_000, default=10)
    weight_decay: float = number(0.0, 1.0, default=0.0)
    #: add nothing on the tokens all rows begin with, where a mixture cannot know whom to weigh
    silent_prefix: bool = yes_or_no(default=True)
    seed: int = integer(0, _SEED, default=0)
    #: longer rows are refused or cut, as the chat encoder says
    max_tokens: int = integer(8, 1_048_576, default=512)
    description: str = text(length=10_000, default="", empty=True)
    licence: str | None = optional(text(length=128))
    checkpoint_every_s: float = number(0.0, 86_400.0, default=60.0, above=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_name(self.name, kind="adapter")
        if self.warmup_steps > self.steps:
            raise SpecInvalid(
                "warmup_steps", allowed=f"at most the {self.steps} steps", value=self.warmup_steps
            )
        if self.batch_rows % self.processes:
            allowed = f"a divisor of the {self.batch_rows} rows of a batch, which they share evenly"
            raise SpecInvalid("processes", allowed=allowed, value=self.processes)
        embeddings = sorted(_EMBEDDINGS.intersection(self.target_modules))
        if self.silent_prefix and embeddings:
            allowed = f"without embeddings ({embeddings[0]}) unless silent_prefix is off (--no-silent-prefix)"
            raise SpecInvalid("target_modules", allowed=allowed, value=self.target_modules)


@dataclass(frozen=True, kw_only=True)
class EvalSpec(_Stored):
    """Measure subjects (adapters, bases, compositions) on datasets, one per task."""

    kind: ClassVar[str] = "eval"

    subjects: tuple[str, ...] = texts(least=1)
    #: task name -> dataset reference
    datasets: Mapping[str, str] = named_texts(least=1)
    batch_tokens: int = integer(1, 16_777_216, default=4096)
    #: rows of each dataset to use; all when left out
    limit: int | None = optional(integer(1, 2**31 - 1))


@dataclass(frozen=True, kw_only=True)
class ComposeSpec(_Stored):
    """Train a scaling head over chosen adapters and report whether it was worth it."""

    kind: ClassVar[str] = "compose"

    name: str = text(length=128)
    #: expert order is part of the request: `name@version`, first one first
    adapters: tuple[str, ...] = texts(least=1)
    #: domain -> training dataset reference
    data: Mapping[str, str] = named_texts(least=1)
    #: domain -> held-out dataset reference
    eval_data: Mapping[str, str] = named_texts(least=0, default=dict)
    #: held-out datasets whose rows join several domains
    mixed_datasets: tuple[str, ...] = texts(least=0, default=())
    #: fields of XLoraConfig, whose own rules the plan asks
    head: Mapping[str, Any] = settings()
    warm_start_steps: int = integer(0, 10_000_000, default=1000)
    mixture_steps: int = integer(0, 10_000_000, default=6)
    samples_per_domain: int = integer(LEAST_ROWS, 10_000_000, default=768)
    eval_rows: int = integer(1, 10_000_000, default=128)
    warm_start_learning_rate: float = number(0.0, 1.0, default=2e-3, above=True)
    mixture_learning_rate: float = number(0.0, 1.0, default=2e-4, above=True)
    #: of mixture training: the warm start is over in seconds
    checkpoint_every_s: float = number(0.0, 86_400.0, default=60.0, above=True)
    seed: int = integer(0, _SEED, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_name(self.name, kind="composition")
        for reference in self.adapters:
            _, separator, version = reference.partition("@")
            if not separator or not version.isdecimal():
                raise SpecInvalid("adapters", allowed="resolved references like 'bio@3'", value=reference)
        if strangers := sorted(set(self.eval_data) - set(self.data)):
            raise SpecInvalid("eval_data", allowed=f"for the domains {sorted(self.data)}", value=strangers)
        if self.warm_start_steps + self.mixture_steps == 0:
            raise SpecInvalid("mixture_steps", allowed="above 0 when there is no warm start", value=0)


Spec: TypeAlias = TrainSpec | EvalSpec | ComposeSpec

#: every kind of job and what it is asked with
SPECS: dict[str, type[TrainSpec] | type[EvalSpec] | type[ComposeSpec]] = {
    spec.kind: spec for spec in (TrainSpec, EvalSpec, ComposeSpec)
}


def processes_of(stored: Mapping[str, Any]) -> int:
    """How many processes a stored request wants; only training may want more than one."""
    return int(stored.get("processes", 1))


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value
