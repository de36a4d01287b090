"""PHATGOOSE (arXiv:2402.05859): each layer weighs the experts by a gate that each learnt on its own data.

A gate needs its expert alone, so it is trained once: it is kept in `ZOO_HOME`, under the digests of what it
was trained from, and every later composition of that expert finds it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from registry.entities import StoredMethod
from workers.methods.kept_gates import kept_gate
from workers.methods.mixing import ComposedModel, Making
from workers.methods.routed import ROUTER_FILE, read_router, router_of, write_router
from xlora_engine.config import XLoraConfig
from xlora_engine.gate_training.expert_gate import Gate
from xlora_engine.merging.gated_form import in_gated_form, standardised
from xlora_engine.mixture.routers import Router
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import Expert

GATES_FILE = "gates.safetensors"


class Phatgoose:
    """The experts under their own gates."""

    def make(self, making: Making) -> ComposedModel:
        """Find each expert's gate, or train it on the expert's own data."""
        model = making.with_experts(XLoraConfig())
        base, experts = model.unload(), model.experts
        gates = {}
        with making.watch.phase("gates"):
            domains = {position: domain for domain, position in making.parts.domains.items()}
            for position, expert in enumerate(experts):
                gate = kept_gate(making, base, expert, domains[position])
                gates[expert.name] = {path: standardised(vector) for path, vector in gate.items()}
        return _composed(base, experts, gates, router_of("phatgoose", making.spec))

    def save(self, composed: ComposedModel, folder: Path) -> StoredMethod:
        """Write the router's settings, the gates and the experts."""
        details = write_router(composed, folder)
        gates = {
            f"{expert.name}/{path}": update.A[0].contiguous()
            for expert in composed.model.experts
            for path, update in expert.updates.items()
        }
        save_file(gates, folder / GATES_FILE)
        return StoredMethod(
            name="phatgoose",
            files=(ROUTER_FILE, GATES_FILE),
            details=details,
            weights={"gates": GATES_FILE},
        )

    def load(self, folder: Path, base_model: PreTrainedModel) -> ComposedModel:
        """The experts on their base model, and their gates."""
        router, experts = read_router(folder)
        stored = load_file(folder / GATES_FILE)
        gates = {
            expert.name: {path: stored[f"{expert.name}/{path}"] for path in expert.updates}
            for expert in experts
        }
        return _composed(base_model, experts, gates, router)


def _composed(
    base: PreTrainedModel, experts: Sequence[Expert], gates: Mapping[str, Gate], router: Router
) -> ComposedModel:
    ready = [in_gated_form(expert, gates[expert.name]) for expert in experts]
    return ComposedModel(model=XLoraModel(base, ready, XLoraConfig()), router=router, made_of=tuple(experts))
