"""What every mixing method is made from, gives, and can do; which class does it is said by the table."""

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedModel

from registry.entities import AdapterVersion, BaseModel, StoredMethod
from workers.attempts.context import JobContext
from workers.requests.methods import method_row
from workers.requests.specs import ComposeSpec
from xlora_engine.config import XLoraConfig
from xlora_engine.data.chat import ChatTokenizer
from xlora_engine.measuring.probe import effect_of
from xlora_engine.mixture.routers import Router
from xlora_engine.model import XLoraModel
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.adapter_weights import Expert, read_expert

#: Tokens in one forward without gradients: enough to keep two cores busy, little enough for a laptop.
TOKENS_PER_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a composition is made of, as the registry holds it."""

    base: BaseModel
    adapters: tuple[AdapterVersion, ...]
    #: domain -> position of the expert trained for it
    domains: Mapping[str, int]


@dataclass
class Stopwatch:
    """Seconds spent in each phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside under this name."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True, kw_only=True)
class Making:
    """One composition in the making: the job, what was asked, and what is loaded for it."""

    context: JobContext
    spec: ComposeSpec
    parts: Parts
    base_model: PreTrainedModel
    tokenizer: ChatTokenizer
    watch: Stopwatch
    #: The experts, once they have been read.
    read: list[Expert] = field(default_factory=list)

    def with_experts(self, config: XLoraConfig) -> XLoraModel:
        """The base model with every expert and a new head of this configuration, drawn by the spec's seed.

        Raises:
            EngineError: an expert does not fit, or changes nothing.
        """
        with self.watch.phase("load"):
            if self.read:
                return XLoraModel(self.base_model, self.read, config, seed=self.spec.seed)
            registry = self.context.registry
            folders = {adapter.name: registry.materialise(adapter) for adapter in self.parts.adapters}
            self.read.extend(read_expert(folder, name) for name, folder in folders.items())
            model = XLoraModel(self.base_model, self.read, config, seed=self.spec.seed)
            for position, name in enumerate(model.config.adapters):
                effect_of(model, model.constant_scalings(alone(position, of=len(self.read))), name=name)
        self.context.report("loading", 1, 1)
        return model


@dataclass(frozen=True, kw_only=True)
class ComposedModel:
    """Experts in memory and what weighs them."""

    model: XLoraModel
    #: A weight for each expert, the same for every token and layer.
    weights: tuple[float, ...] | None = None
    #: What weighs them in each layer instead; with neither, the model's own head decides.
    router: Router | None = None
    #: What the report says of how it was trained.
    training: Mapping[str, Any] = field(default_factory=dict)
    #: The experts that became the model's one, if they did.
    made_of: tuple[Expert, ...] = ()

    @property
    def reads_head(self) -> bool:
        """Whether the model's own head weighs its experts, which takes a pass of its own."""
        return self.weights is None and self.router is None

    def weighed(self) -> AbstractContextManager[None]:
        """Inside, the model weighs its experts so."""
        if self.router is not None:
            return self.model.routed(self.router)
        if self.weights is None:
            return nullcontext()
        # Without any expert, none is computed.
        scalings = self.model.constant_scalings(self.weights) if any(self.weights) else None
        return self.model.fixed_scalings(scalings)


class MixingMethod(Protocol):
    """One way of mixing experts; the table of methods names its implementation."""

    def make(self, making: Making) -> ComposedModel:
        """Mix the experts, training whatever there is to train."""

    def save(self, composed: ComposedModel, folder: Path) -> StoredMethod:
        """Write all that it takes to make it again into a new folder; what the registry is to keep of it."""

    def load(self, folder: Path, base_model: PreTrainedModel) -> ComposedModel:
        """What `save` wrote, on the base model that it was made on."""


class StaticMethod(MixingMethod, Protocol):
    """One that merges experts to an adapter by their weights alone."""

    def merge(self, making: Making, experts: Sequence[Expert]) -> Expert:
        """The one adapter, which is not on the base model."""


class XLoraMethod(MixingMethod, Protocol):
    """One whose compositions are X-LoRA models, which other programs read."""

    def read(self, folder: Path) -> SavedModel:
        """What `save` wrote, apart from a base model, for the formats that it is exported to."""


def mixing_method(name: str) -> MixingMethod:
    """The method of that name.

    Raises:
        SpecInvalid: there is no such method.
    """
    found: MixingMethod = _implementation(name)
    return found


def xlora_method(name: str) -> XLoraMethod:
    """The method of that name, whose row says that it leaves an X-LoRA model."""
    found: XLoraMethod = _implementation(name)
    return found


def static_method(name: str) -> StaticMethod:
    """The method of that name, whose row says that every report compares with it."""
    found: StaticMethod = _implementation(name)
    return found


def _implementation(name: str) -> Any:
    module, _, attribute = method_row(name).implementation.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def alone(position: int, *, of: int) -> tuple[float, ...]:
    """Weights of `of` experts that leave one alone."""
    return tuple(float(index == position) for index in range(of))


def uniform(experts: int) -> tuple[float, ...]:
    """Weights of experts that count the same."""
    return (1 / experts,) * experts
