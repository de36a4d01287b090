"""Routers without training: each layer weighs the experts by its own input, in the one pass that there is.

What is stored are the experts as they were registered and the router's settings; the form that the router
reads them in is computed when they are loaded.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from formats.saved_model import EXPERTS_FOLDER
from formats.strict_json import read_object
from registry.entities import StoredMethod
from workers.methods.mixing import ComposedModel, Making
from workers.requests.specs import ComposeSpec
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import SavedFileUnreadable
from xlora_engine.merging.singular_form import in_singular_form
from xlora_engine.mixture.routers import ROUTERS, Router
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import Expert, read_expert, write_expert

#: The router's settings, and the experts' names in order.
ROUTER_FILE = "router.json"


class Routed:
    """The experts under a router of the engine's table that needs their weights alone."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def make(self, making: Making) -> ComposedModel:
        """Write the experts as the router reads them; nothing is trained."""
        model = making.with_experts(XLoraConfig())
        base, experts = model.unload(), model.experts
        with making.watch.phase("router"):
            return self._composed(base, experts, router_of(self._kind, making.spec))

    def save(self, composed: ComposedModel, folder: Path) -> StoredMethod:
        """Write the router's settings and the experts."""
        details = write_router(composed, folder)
        return StoredMethod(name=self._kind, files=(ROUTER_FILE,), details=details)

    def load(self, folder: Path, base_model: PreTrainedModel) -> ComposedModel:
        """The experts on their base model, and their router."""
        router, experts = read_router(folder)
        return self._composed(base_model, experts, router)

    def _composed(self, base: PreTrainedModel, experts: Sequence[Expert], router: Router) -> ComposedModel:
        values_in_down = ROUTERS[router.kind].values_in_down
        ready = [in_singular_form(expert, values_in_down=values_in_down) for expert in experts]
        return ComposedModel(
            model=XLoraModel(base, ready, XLoraConfig()), router=router, made_of=tuple(experts)
        )


def router_of(kind: str, spec: ComposeSpec) -> Router:
    """The router that was asked for."""
    top_k = spec.router_top_k or ROUTERS[kind].top_k
    return Router(kind=kind, top_k=top_k, temperature=spec.router_temperature)


def write_router(composed: ComposedModel, folder: Path) -> dict[str, object]:
    """Write a router's settings and the experts it weighs into a new folder; the settings as JSON types."""
    router = composed.router
    if router is None:
        raise ValueError("the composition has no router")
    for expert in composed.made_of:
        write_expert(folder / EXPERTS_FOLDER / expert.name, expert, expert.updates)
    settings = {"kind": router.kind, "top_k": router.top_k, "temperature": router.temperature}
    experts = [expert.name for expert in composed.made_of]
    written = json.dumps({**settings, "experts": experts}, indent=2)
    (folder / ROUTER_FILE).write_text(f"{written}\n", encoding="utf-8")
    return settings


def read_router(folder: Path) -> tuple[Router, tuple[Expert, ...]]:
    """What `write_router` wrote.

    Raises:
        SavedFileUnreadable: the file is damaged.
    """
    path = folder / ROUTER_FILE
    found = read_object(path, refusal=SavedFileUnreadable)
    try:
        router = Router(kind=found["kind"], top_k=found["top_k"], temperature=found["temperature"])
        names = tuple(found["experts"])
    except (KeyError, TypeError) as error:
        raise SavedFileUnreadable(f"{path} is damaged: {error}") from error
    return router, tuple(read_expert(folder / EXPERTS_FOLDER / name, name) for name in names)


arrow = partial(Routed, "arrow")
spectr = partial(Routed, "spectr")
