"""CAT (LoRA Soups, arXiv:2410.13025): a trained weight for each expert and layer, then one adapter.

The weights are learnt as the gates of a scaling head that reads nothing: in each layer a softmax over one
logit for each expert, as in the authors' code, from equal weights on. What is stored is the weighted sum, an
ordinary adapter whose rank is the sum of the experts'.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch

from formats.names import COMPOSED
from workers.methods.head_stages import MixtureStage
from workers.methods.merged import Merged, write_merged
from workers.methods.mixing import ComposedModel, Making
from workers.methods.training_examples import DrawnExamples
from workers.methods.xlora import drawn_for
from xlora_engine.config import XLoraConfig
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.merging.weighted import weighted
from xlora_engine.model import XLoraModel

#: A head without an inner layer, of which the biases alone are used.
_HEAD = XLoraConfig(layerwise_scalings=True, xlora_depth=1, xlora_dropout_p=0.0)


class Cat(Merged):
    """The experts' weighted sum, whose weights were learnt."""

    def __init__(self) -> None:
        super().__init__("cat", "weighted")

    def make(self, making: Making) -> ComposedModel:
        """Learn the weights by the language-model loss, then merge."""
        spec, model = making.spec, making.with_experts(_HEAD)
        (only,) = model.head.layers
        with torch.no_grad():
            for parameter in only.parameters():
                parameter.zero_()
        only.weight.requires_grad_(False)
        examples = drawn_for(making, model)
        result = MixtureStage(making, model, examples, _unread(examples, model), checkpoints="cat").run(
            learning_rate=spec.cat_learning_rate, routing_weight=0.0
        )
        weights = _weights(model)
        base, experts = model.unload(), model.experts
        with making.watch.phase("merge"):
            adapter = weighted(
                experts,
                name=COMPOSED,
                weights=weights,
                scale=spec.merge_scale,
                rank=spec.merged_rank,
                modules=[path for path, _ in base.named_modules()],
            )
        write_merged(making.context.folder / "merged" / "cat", adapter)
        facts = {**_facts(weights, model.config.adapters), "held_out_loss": result.best_held_out_loss}
        return replace(
            self.load(making.context.folder / "merged" / "cat", base), made_of=experts, training=facts
        )


def _unread(examples: DrawnExamples, model: XLoraModel) -> RoutedExamples:
    """The examples without hidden states; those of no known expert count as of several."""
    lengths = [len(example.token_ids) for example in examples.encoded]
    nothing = torch.zeros(1, 1, dtype=torch.bfloat16).expand(sum(lengths), model.config.hidden_size)
    return RoutedExamples(
        hidden=HiddenStates(values=nothing, starts=torch.tensor([0, *accumulate(lengths)])),
        experts=torch.tensor([SEVERAL if expert is None else expert for expert in examples.experts]),
        train=examples.train,
        held_out=examples.held_out,
        shared=len(shared_prefix(examples.encoded)),
    )


@torch.no_grad()
def _weights(model: XLoraModel) -> dict[str, list[float]]:
    """Module -> the weight of each expert there."""
    unread = torch.zeros(1, 1, model.config.hidden_size, device=model.device)
    return dict(zip(model.layers, model.head(unread)[0, 0].tolist(), strict=True))


def _facts(weights: dict[str, list[float]], experts: Sequence[str]) -> dict[str, Any]:
    """What the report says of the weights."""
    every = torch.tensor(list(weights.values()))
    mean, spread = every.mean(0).tolist(), every.std(0, correction=0).tolist()
    said = ", ".join(
        f"{name} {weight:.2f} ± {deviation:.2f}"
        for name, weight, deviation in zip(experts, mean, spread, strict=True)
    )
    return {
        "weights": dict(zip(experts, mean, strict=True)),
        "sentences": [f"weights of the experts, mean and standard deviation over layers: {said}"],
    }
