"""The stage that labels examples of which no expert is known, by the losses of the experts themselves."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from registry.entities import AdapterVersion
from workers.errors import NoExpertHelps
from workers.methods.kept_passes import cached_answer_losses, expert_digest
from workers.methods.mixing import TOKENS_PER_BATCH, Making, alone
from workers.methods.training_examples import DrawnExamples
from xlora_engine.data.chat import EncodedExample, pad_token
from xlora_engine.head_training.expert_labels import ExpertLabel, label_by_losses, mean_loss
from xlora_engine.model import XLoraModel

#: Unlabelled examples on which the experts are compared with the base model; enough for a difference that
#: matters.
_COMPARED_WITH_BASE = 64


class ExpertLosses:
    """The losses of answers under one expert alone, or under the base model, which are kept for later."""

    def __init__(self, making: Making, model: XLoraModel, *, total: int) -> None:
        """`total` is how many answers will be asked of all together."""
        self._making = making
        self._model = model
        self._done = 0
        self._total = total

    def of_expert(self, examples: Sequence[EncodedExample], position: int) -> list[Float[Tensor, " answer"]]:
        """Loss (nats) of each token of each answer under the expert at a position."""
        adapters = self._making.parts.adapters
        scalings = self._model.constant_scalings(alone(position, of=len(adapters)))
        with self._model.fixed_scalings(scalings):
            return self._losses(examples, adapters[position])

    def of_base(self, examples: Sequence[EncodedExample]) -> list[Float[Tensor, " answer"]]:
        """The same under the base model."""
        with self._model.disabled():
            return self._losses(examples, None)

    def _losses(
        self, examples: Sequence[EncodedExample], adapter: AdapterVersion | None
    ) -> list[Float[Tensor, " answer"]]:
        making = self._making
        return cached_answer_losses(
            examples,
            self._model,
            folder=making.context.registry.settings.home / "cache" / "expert-losses",
            digest=expert_digest(making.parts.base, adapter, making.spec.head),
            pad_id=pad_token(making.tokenizer),
            tokens_per_batch=making.context.micro_batch(TOKENS_PER_BATCH),
            on_examples=self._on_examples,
        )

    def _on_examples(self, count: int) -> None:
        self._done += count
        self._making.context.report("labels", self._done, self._total)
        self._making.context.raise_if_stopped()


class LabellingStage:
    """Which experts each unlabelled example needs."""

    def __init__(self, making: Making, model: XLoraModel, examples: DrawnExamples) -> None:
        self._making = making
        self._examples = examples
        count = len(examples.unlabelled)
        total = count * len(making.parts.adapters) + min(count, _COMPARED_WITH_BASE)
        self._losses = ExpertLosses(making, model, total=total)

    def run(self) -> Mapping[int, ExpertLabel]:
        """A label for every unlabelled example.

        Raises:
            NoExpertHelps: together, the experts explain the answers no better than the base model does.
        """
        unlabelled = self._examples.unlabelled
        if not unlabelled:
            return {}
        with self._making.watch.phase("labels"):
            encoded = [self._examples.encoded[index] for index in unlabelled]
            by_expert = [
                self._losses.of_expert(encoded, position)
                for position in range(len(self._making.parts.adapters))
            ]
            labels = [label_by_losses(torch.stack(losses, 1)) for losses in zip(*by_expert, strict=True)]
            self._require_help(encoded, labels)
        return dict(zip(unlabelled, labels, strict=True))

    def _require_help(self, encoded: Sequence[EncodedExample], labels: Sequence[ExpertLabel]) -> None:
        if self._making.spec.without_help:
            return
        stride = -(-len(encoded) // _COMPARED_WITH_BASE)
        base = self._losses.of_base(encoded[::stride])
        base_loss = float(torch.cat(base).mean())
        experts_loss = mean_loss(labels[::stride])
        if experts_loss >= base_loss:
            raise NoExpertHelps(
                [adapter.reference for adapter in self._making.parts.adapters], experts_loss, base_loss
            )
