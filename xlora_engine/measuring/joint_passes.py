"""Forward passes whose sequences are different subjects of one mixture: each has scalings of its own."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from xlora_engine.data.chat import Batch
from xlora_engine.data.shared_prefix import repeated
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import ConfigInvalid
from xlora_engine.measuring.subjects import Subject
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.mixture.routers import Routed
from xlora_engine.sources.architectures import decoder_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """Tokens that all sequences begin with, run once: for the scaling pass, and for each subject."""

    length: int
    #: Of one sequence.
    scaling: Cache
    #: A sequence for each subject.
    mixture: Cache
    #: What the head says of the tokens; None if no subject reads it.
    scalings: Float[Tensor, "1 prefix layer expert"] | None

    def scaling_cache(self, batch: int) -> Cache:
        """The scaling pass's, for a batch of sequences, to be continued once."""
        return repeated(self.scaling, batch)

    def mixture_cache(self, subjects: Sequence[int], device: torch.device) -> Cache:
        """The mixture pass's, for sequences of these subjects, to be continued once."""
        return selected(self.mixture, upload(list(subjects), device))

    def mask(self, of_batch: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch prefix_and_seq"]:
        """An attention mask with the prefix before it."""
        return torch.nn.functional.pad(of_batch, (self.length, 0), value=1)


class JointPasses:
    """The two passes of a mixture, over sequences of several subjects at once."""

    def __init__(self, model: Mixture, subjects: Sequence[Subject]) -> None:
        """Raises ConfigInvalid where two subjects have different routers, each of which wants its experts."""
        self.model = model
        self.subjects = tuple(subjects)
        routers = {subject.router for subject in subjects} - {None}
        if len(routers) > 1:
            raise ConfigInvalid("subjects", "of one router at most", len(routers))
        self._layers = model.head.layer_count

    @property
    def twin(self) -> int | None:
        """The subject that computes what the scaling pass does: its forward gives the hidden states too."""
        count = len(self.model.config.adapters)
        weights = (self.model.config.scaling_pass_value,) * count
        same = (n for n, s in enumerate(self.subjects) if s.is_constant and s.weights == weights)
        return next(same, None)

    def run_prefix(self, token_ids: Sequence[int]) -> Prefix:
        """Run the tokens that all sequences begin with, if there are any."""
        model, caches = self.model, self.model.new_cache()
        prefix = Prefix(length=len(token_ids), scaling=caches.scaling, mixture=caches.mixture, scalings=None)
        if not token_ids:
            return prefix
        ids = upload([list(token_ids)], model.device)
        where = {
            "attention_mask": torch.ones_like(ids),
            "position_ids": torch.arange(len(token_ids), device=model.device)[None],
        }
        scalings = None
        if any(subject.reads_head for subject in self.subjects):
            scalings = model.head(model.scaling_pass(ids, **where, cache=caches.scaling))
        count = len(self.subjects)
        model.mixture_pass(
            self.scalings(range(count), None if scalings is None else scalings.expand(count, -1, -1, -1)),
            routed=self.routed(range(count)),
            input_ids=ids.expand(count, -1),
            attention_mask=where["attention_mask"].expand(count, -1),
            position_ids=where["position_ids"],
            logits_to_keep=1,
            cache=caches.mixture,
            use_cache=True,
        )
        return Prefix(
            length=len(token_ids), scaling=caches.scaling, mixture=caches.mixture, scalings=scalings
        )

    def scalings(
        self, subjects: Sequence[int], of_head: Float[Tensor, "batch seq layer expert"] | None
    ) -> Float[Tensor, "batch #seq #layer expert"]:
        """Each sequence's own scalings; `of_head` is what the head says of each, if a subject reads it."""
        chosen = [self.subjects[number] for number in subjects]
        if of_head is None:
            weights = [subject.weights for subject in chosen]
            return upload(weights, self.model.device, dtype=torch.float32)[:, None, None]
        each = [subject.scalings(of_head[index : index + 1]) for index, subject in enumerate(chosen)]
        return torch.cat(each)

    def routed(self, subjects: Sequence[int]) -> Routed | None:
        """The sequences of these subjects that a router weighs."""
        routers = [self.subjects[number].router for number in subjects]
        router = next(filter(None, routers), None)
        if router is None:
            return None
        sequences = upload([each is not None for each in routers], self.model.device)
        return Routed(router=router, sequences=sequences)

    def read_batch(
        self, batch: Batch, prefix: Prefix, *, keep: int | None
    ) -> tuple[Float[Tensor, "batch seq layer expert"], Float[Tensor, "batch kept vocabulary"] | None]:
        """What the head says of a batch, and the logits of the subject that is the scaling pass's twin.

        Without `keep`, or without such a subject, no logits are computed.
        """
        count, twin = len(batch.input_ids), self.twin
        inputs: dict[str, Any] = {
            "attention_mask": prefix.mask(batch.attention_mask),
            "position_ids": batch.position_ids + prefix.length,
        }
        cache = prefix.scaling_cache(count) if prefix.length else None
        if keep is None or twin is None:
            hidden = self.model.scaling_pass(batch.input_ids, **inputs, cache=cache)
            return self.model.head(hidden), None
        with _last_hidden(self.model) as seen:
            out = self.model.mixture_pass(
                self.scalings([twin] * count, None),
                input_ids=batch.input_ids,
                **inputs,
                logits_to_keep=keep,
                cache=cache,
                use_cache=cache is not None,
            )
        return self.model.head(seen[0]), _logits(out)

    def logits(
        self,
        batch: Batch,
        prefix: Prefix,
        subjects: Sequence[int],
        of_head: Float[Tensor, "batch seq layer expert"] | None,
    ) -> Float[Tensor, "batch kept vocabulary"]:
        """Logits of the last positions, each sequence under its subject."""
        cache = prefix.mixture_cache(subjects, self.model.device) if prefix.length else None
        out = self.model.mixture_pass(
            self.scalings(subjects, of_head),
            routed=self.routed(subjects),
            input_ids=batch.input_ids,
            attention_mask=prefix.mask(batch.attention_mask),
            position_ids=batch.position_ids + prefix.length,
            logits_to_keep=batch.keep,
            cache=cache,
            use_cache=cache is not None,
        )
        return _logits(out)

    def step(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch cached_and_seq"],
        position_ids: Int[Tensor, "batch seq"],
        subjects: Sequence[int],
        caches: tuple[Cache, Cache] | None,
    ) -> Int[Tensor, " batch"]:
        """Each sequence's likeliest next token; caches grow, the scaling pass's if a subject reads it."""
        scaling, mixture = caches or (None, None)
        where = {"attention_mask": attention_mask, "position_ids": position_ids}
        of_head = None
        if any(self.subjects[number].reads_head for number in subjects):
            of_head = self.model.head(self.model.scaling_pass(input_ids, **where, cache=scaling))
        out = self.model.mixture_pass(
            self.scalings(subjects, of_head),
            routed=self.routed(subjects),
            input_ids=input_ids,
            **where,
            logits_to_keep=1,
            cache=mixture,
            use_cache=mixture is not None,
        )
        return _logits(out)[:, -1].argmax(-1)


def _logits(out: CausalLMOutputWithPast) -> Float[Tensor, "batch kept vocabulary"]:
    # A causal language model's output always has them.
    return cast("Tensor", out.logits)


def selected(cache: Cache, sequences: Int[Tensor, " batch"]) -> Cache:
    """A copy of a cache that holds these of its sequences, in this order."""
    copied = copy.deepcopy(cache)
    # Not `batch_select_indices`, which leaves a recurrent state as it is.
    copied.reorder_cache(cast("torch.LongTensor", sequences))
    return copied


@contextmanager
def _last_hidden(model: Mixture) -> Iterator[list[Float[Tensor, "batch seq hidden"]]]:
    """Inside, the decoder's last hidden states of each forward are kept."""
    seen: list[Tensor] = []
    handle = decoder_of(model.base).register_forward_hook(
        lambda _module, _inputs, out: seen.append(out.last_hidden_state)
    )
    try:
        yield seen
    finally:
        handle.remove()
