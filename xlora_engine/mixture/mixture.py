"""The mixture: a base model, its experts and the scaling head, run in two passes as one module."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from xlora_engine.config import XLoraConfig
from xlora_engine.devices.host_copy import upload
from xlora_engine.devices.quantised import keep_unpacked, require_differentiable
from xlora_engine.errors import CacheUnsupported, ConfigInvalid
from xlora_engine.mixture.activation_checkpointing import ActivationCheckpointing
from xlora_engine.mixture.cache import XLoraCache, require_xlora_cache
from xlora_engine.mixture.head import ScalingHead
from xlora_engine.mixture.layer import MixtureLayer
from xlora_engine.mixture.model_output import XLoraOutput
from xlora_engine.mixture.resolved_config import resolved
from xlora_engine.mixture.routers import Routed, Router
from xlora_engine.mixture.scaling_context import ScalingContext, fitted
from xlora_engine.mixture.wrapping import presence, replace_module, wrap
from xlora_engine.sources.adapter_weights import Expert, LowRank
from xlora_engine.sources.architectures import decoder_of, require_text_only, rereads_cache
from xlora_engine.sources.expert_fit import check_fits, placed


@dataclass(frozen=True, eq=False)
class _Fixed:
    """What replaces the head: scalings, or a router; with neither the experts add nothing."""

    scalings: Tensor | None = None
    routed: Routed | None = None


class Mixture(nn.Module):
    """A mixture of LoRA experts, gated token by token and layer by layer (arXiv:2402.07148).

    The *scaling pass* runs the base model with every expert at one constant scaling (0: inactive) and
    passes its last hidden state, after the final norm, to the scaling head. The *mixture pass* runs it
    again with the scalings of the head. No gradient flows through the scaling pass.

    The base model's target layers are replaced by `MixtureLayer`s that hold them untouched;
    `unload()` puts them back. Knows no file format and no decoding: `XLoraModel` adds both.
    """

    def __init__(
        self, base: PreTrainedModel, experts: Sequence[Expert], config: XLoraConfig, *, seed: int = 0
    ) -> None:
        """Wrap `base` in place.

        Raises:
            ExpertMismatch: an expert does not fit the base model, which is then left as it was.
            ConfigInvalid: the configuration contradicts the base model or the experts.
            BaseUnsupported: the base model has no decoder below its language-model head, or is not in memory.

        Warns:
            UnprovenArchitecture: no test covers this class of base model, which is used all the same.
        """
        super().__init__()
        self.config = resolved(config, base, experts)
        experts = [placed(expert, base) for expert in experts]
        for expert in experts:
            check_fits(expert, base)
        # They have been compared and are no longer needed.
        self.experts = tuple(replace(expert, base_copies={}) for expert in experts)
        self.context = ScalingContext()
        self.base = base
        base.requires_grad_(False)
        base.eval()
        adapted = {path for expert in self.experts for path in expert.updates}
        #: Layers that see tokens of earlier calls again, whose scalings no cache keeps.
        self._rereading = sorted(path for path in adapted if rereads_cache(base, path))
        self.layers = wrap(base, self.experts, self.config, self.context)
        present = presence(self.layers, self.config)
        self.head = ScalingHead(self.config, layer_count=len(self.layers), seed=seed, present=present)
        self.head.to(base.device)
        self._fixed: _Fixed | None = None
        self._checkpointing: ActivationCheckpointing | None = None
        self._train_experts(self.config.use_trainable_adapters)
        self.eval()

    def scaling_pass(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        *,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq hidden"]:
        """Hidden states for the scaling head: the base model's last, experts at `scaling_pass_value`.

        Never runs the language-model head, and keeps no gradient.
        """
        with torch.no_grad(), self.context.using(self.scaling_pass_scalings):
            out = decoder_of(self.base)(
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                cache=cache,
                use_cache=cache is not None,
            )
        hidden: Tensor = out.last_hidden_state
        return hidden

    @property
    def scaling_pass_scalings(self) -> Float[Tensor, "1 1 1 expert"] | None:
        """Every expert's scaling in the scaling pass, `scaling_pass_value`; None if they are inactive."""
        value = self.config.scaling_pass_value
        return self.constant_scalings([value] * len(self.experts)) if value else None

    def mixture_pass(
        self,
        scalings: Float[Tensor, "#batch #seq layer expert"],
        *,
        routed: Routed | None = None,
        **inputs: Any,
    ) -> CausalLMOutputWithPast:
        """The base model's forward with the experts weighted by these scalings.

        `inputs` are the base model's own. Scalings of shape `[1 1 1 expert]` hold for all tokens; sequences
        that `routed` names are weighed by its router instead.

        Raises:
            ConfigInvalid: the scalings are for other layers, experts or tokens.
        """
        self._require_counted_logits(inputs.get("logits_to_keep"))
        with (
            self.context.using(self._fitted(scalings, inputs), routed=routed),
            self._checkpointing_for(inputs),
        ):
            out: CausalLMOutputWithPast = self.base(**inputs)
        return out

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "batch seq"] | None = None,
        past_key_values: XLoraCache | None = None,
        inputs_embeds: Float[Tensor, "batch seq hidden"] | None = None,
        labels: Int[Tensor, "batch kept"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: XLoraCache | None = None,
        return_dict: bool | None = True,
        **kwargs: Any,
    ) -> XLoraOutput:
        """Both passes, as a causal language model of `transformers` is called.

        `past_key_values` and `cache` are two names of one argument, as in `transformers`.

        Raises:
            CacheUnsupported: the cache cannot hold both passes.
            ConfigInvalid: a plain tuple is asked for, or an input that the scaling pass cannot take.
        """
        if return_dict is False:
            raise ConfigInvalid("return_dict", "true or left out", return_dict)
        given = cache if cache is not None else past_key_values
        where = {"attention_mask": attention_mask, "position_ids": position_ids}
        tokens = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        inputs = {**tokens, **where, "labels": labels, "logits_to_keep": logits_to_keep, **kwargs}
        if self._fixed is not None:
            return self._forward_fixed(self._fixed, **inputs, cache=given, use_cache=use_cache)
        require_text_only(kwargs)
        held = require_xlora_cache(given)
        if held is None and use_cache:
            held = self.new_cache()
        self._require_no_rereading(held)
        scalings = self.head(self.scaling_pass(**tokens, **where, cache=held and held.scaling))
        out = self.mixture_pass(scalings, **inputs, cache=held and held.mixture, use_cache=held is not None)
        return XLoraOutput.of(out, scalings=scalings, cache=held)

    def new_cache(self) -> XLoraCache:
        """An empty key-value cache for both passes."""
        return XLoraCache.for_base(self.base.config)

    def constant_scalings(self, values: Sequence[float]) -> Float[Tensor, "1 1 1 expert"]:
        """The same scalings for every token and layer: one-hot is one adapter alone, 1/n the uniform mixture.

        Raises:
            ConfigInvalid: not one value for each expert.
        """
        if len(values) != len(self.experts):
            raise ConfigInvalid("scalings", f"{len(self.experts)} values, one for each expert", list(values))
        return upload(values, self.base.device, dtype=torch.float32).view(1, 1, 1, -1)

    @property
    def has_fixed_scalings(self) -> bool:
        """Whether fixed scalings or a router replace the head, so that there is one pass."""
        return self._fixed is not None

    @contextmanager
    def fixed_scalings(self, scalings: Float[Tensor, "#batch #seq layer expert"] | None) -> Iterator[None]:
        """Inside, the experts have these scalings, in every thread; with None they add nothing.

        Raises:
            ConfigInvalid: the scalings are for other layers or experts; in a call inside, for other tokens.
        """
        self._fitted(scalings)
        before, self._fixed = self._fixed, _Fixed(scalings)
        try:
            yield
        finally:
            self._fixed = before

    @contextmanager
    def routed(self, router: Router) -> Iterator[None]:
        """Inside, each layer weighs its experts by its own input, in every thread; there is one pass."""
        before, self._fixed = self._fixed, _Fixed(routed=Routed(router=router))
        try:
            yield
        finally:
            self._fixed = before

    def disabled(self) -> AbstractContextManager[None]:
        """Inside, the model is exactly its base model."""
        return self.fixed_scalings(None)

    def train(self, mode: bool = True) -> Self:
        """Only the scaling head is in training mode; dropout in the frozen base would add noise to its input.

        Raises:
            BaseUnsupported: gradients cannot pass through the base model's quantised layers.
        """
        if mode:
            require_differentiable(self.base)
        super().train(mode)
        self.base.eval()
        keep_unpacked(self.base)
        return self

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Trade time for memory in training: blocks are recomputed in the backward pass, exactly.

        Raises:
            ConfigInvalid: a `context_fn` was given.
            BaseUnsupported: the base model has no blocks that can be recomputed.
        """
        self._checkpointing = ActivationCheckpointing(self.base, self.context, gradient_checkpointing_kwargs)

    def checkpoint_like(self, other: "Mixture") -> None:
        """Use activation checkpointing with the settings of another model, if that one does."""
        if other._checkpointing is not None:
            self.gradient_checkpointing_enable(other._checkpointing.settings)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are recomputed in training; never in a pass that fills a cache."""
        return self._checkpointing is not None

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        if self._checkpointing is not None:
            self.base.activation_checkpointing_disable()
        self._checkpointing = None

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Trainable parameters, and those of base model, experts and head together; named as in PEFT."""
        learn = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        return learn, self.base.num_parameters() + sum(p.numel() for p in self.head.parameters())

    def unload(self) -> PreTrainedModel:
        """Put the base model's own layers back and return it; this model cannot be used afterwards."""
        for path, layer in self.layers.items():
            replace_module(self.base, path, layer.base)
        if self._checkpointing is not None:
            self.base.activation_checkpointing_disable()
        keep_unpacked(self.base, unpacked=False)
        return self.base

    def rewrap(self) -> None:
        """Undo `unload`, unless another model has wrapped the base since."""
        for path, layer in self.layers.items():
            replace_module(self.base, path, layer)
        self.checkpoint_like(self)
        keep_unpacked(self.base)

    @property
    def device(self) -> torch.device:
        """The device that inputs must be on."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """The base model's dtype, hence that of logits; the head is always float32."""
        # Not the first parameter's: experts of the embeddings come first, and are float32 on a CPU.
        return cast("torch.dtype", self.base.get_input_embeddings().weight.dtype)

    def updates_of(self, expert: Expert) -> dict[str, LowRank]:
        """An expert's updates as they are now: as read from disk, or as trained since."""
        if not self.config.use_trainable_adapters:
            return dict(expert.updates)
        index = self.experts.index(expert)
        updates = {}
        for path, update in expert.updates.items():
            A, B = self.layers[path].update_of(index)
            updates[path] = replace(update, A=A.detach(), B=B.detach())
        return updates

    def _forward_fixed(self, fixed: "_Fixed", **inputs: Any) -> XLoraOutput:
        with self.context.using(self._fitted(fixed.scalings, inputs), routed=fixed.routed):
            out = self.base(**inputs)
        return XLoraOutput.of(out, scalings=fixed.scalings, cache=out.cache)

    def _fitted(self, scalings: Tensor | None, inputs: Mapping[str, Any] | None = None) -> Tensor | None:
        """Scalings that fit this model, and these inputs if given."""
        if scalings is None:
            return None
        given = next(
            (t for n in ("input_ids", "inputs_embeds") if (t := (inputs or {}).get(n)) is not None), None
        )
        tokens = None if given is None else (int(given.shape[0]), int(given.shape[1]))
        return fitted(scalings, layers=len(self.layers), experts=len(self.experts), tokens=tokens)

    def _checkpointing_for(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        filling = inputs.get("cache") is not None or inputs.get("use_cache")
        if self._checkpointing is None or not self.training or not torch.is_grad_enabled() or filling:
            return nullcontext()  # a block that fills a cache would fill it twice
        return self._checkpointing.active()

    def _require_no_rereading(self, cache: XLoraCache | None) -> None:
        if cache is not None and self._rereading:
            raise CacheUnsupported(
                f"{self._rereading[0]} is called on the tokens of its cache again at every step, and their"
                " scalings are not kept; use experts without this layer, or no cache (use_cache=False)"
            )

    def _require_counted_logits(self, kept: int | Tensor | None) -> None:
        if isinstance(kept, Tensor) and isinstance(self.base.get_output_embeddings(), MixtureLayer):
            raise ConfigInvalid("logits_to_keep", "a number where an expert changes the output layer", kept)

    def _train_experts(self, trains: bool) -> None:
        for layer in self.layers.values():
            layer.down.requires_grad_(trains)
            layer.up.requires_grad_(trains)
