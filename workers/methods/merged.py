"""Static merges: the experts become one ordinary adapter, which any server of PEFT adapters takes.

What is stored is that adapter, in PEFT's files, and the experts below it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from formats.names import COMPOSED
from formats.peft import CONFIG_FILE, WEIGHTS_FILE
from formats.saved_model import EXPERTS_FOLDER
from registry.entities import StoredMethod
from workers.methods.mixing import ComposedModel, Making
from xlora_engine.config import XLoraConfig
from xlora_engine.merging.merged_adapter import merged
from xlora_engine.merging.rules import MergeSettings
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import Expert, read_expert, write_expert


class Merged:
    """The experts merged by a rule of the engine's table."""

    def __init__(self, name: str, rule: str) -> None:
        self._name = name
        self._rule = rule

    def make(self, making: Making) -> ComposedModel:
        """Merge the experts; nothing is trained."""
        model = making.with_experts(XLoraConfig())
        base, experts = model.unload(), model.experts
        adapter = self.merge(making, experts)
        # As it is stored, so that what is compared is what is used.
        write_merged(making.context.folder / "merged" / self._name, adapter)
        return replace(self.load(making.context.folder / "merged" / self._name, base), made_of=experts)

    def merge(self, making: Making, experts: Sequence[Expert]) -> Expert:
        """The one adapter, which is not on the base model."""
        spec = making.spec
        with making.watch.phase("merge"):
            return merged(
                experts,
                name=COMPOSED,
                rule=self._rule,
                settings=MergeSettings(
                    experts=len(experts), rank=spec.merged_rank, density=spec.density, scale=spec.merge_scale
                ),
                modules=[path for path, _ in making.base_model.named_modules()],
                seed=spec.seed,
            )

    def save(self, composed: ComposedModel, folder: Path) -> StoredMethod:
        """Write the merged adapter as PEFT does, and the experts below it."""
        (adapter,) = composed.model.experts
        write_merged(folder, adapter)
        for expert in composed.made_of:
            write_merged(folder / EXPERTS_FOLDER / expert.name, expert)
        return StoredMethod(
            name=self._name,
            files=(CONFIG_FILE, WEIGHTS_FILE),
            details={"rule": self._rule, "rank": adapter.config["r"]},
            weights={"adapter": WEIGHTS_FILE},
        )

    def load(self, folder: Path, base_model: PreTrainedModel) -> ComposedModel:
        """The merged adapter alone on its base model."""
        model = XLoraModel(base_model, [read_expert(folder, COMPOSED)], XLoraConfig())
        return ComposedModel(model=model, weights=(1.0,))


def write_merged(folder: Path, expert: Expert) -> None:
    """Write the adapter as PEFT does."""
    write_expert(folder, expert, expert.updates)


linear = partial(Merged, "linear", "mean")
ties = partial(Merged, "ties", "ties")
dare = partial(Merged, "dare", "dare")
core_ties = partial(Merged, "core-ties", "core-ties")
pico = partial(Merged, "pico", "pico")
