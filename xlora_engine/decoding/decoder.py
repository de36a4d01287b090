"""Generation: an X-LoRA model in the form that the decoding loops of `transformers` take."""

from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.configuration_utils import GenerationMode

from xlora_engine.decoding.drafted import can_draft, drafted_sample
from xlora_engine.decoding.lookup_drafts import LookupDrafts, MakeDrafts
from xlora_engine.decoding.prefetched import can_prefetch, prefetched_sample
from xlora_engine.errors import ConfigInvalid
from xlora_engine.mixture.cache import XLoraCache, require_xlora_cache
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.mixture.model_output import XLoraOutput

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer


class Decoder(GenerationMixin):
    """The interface that `GenerationMixin` expects of a model, served by the mixture or its base model.

    A view: it holds no weights, and a new one is made for each call of `generate`.
    """

    main_input_name = "input_ids"
    _is_stateful = False

    def __init__(
        self,
        mixture: Mixture,
        *,
        prefetch_scalings: bool = True,
        make_drafts: MakeDrafts = LookupDrafts,
    ) -> None:
        self.mixture = mixture
        self._make_drafts = make_drafts
        self._prefetch_scalings = prefetch_scalings

    def __getattr__(self, name: str) -> Any:
        """Configuration, device, dtype and all else that `GenerationMixin` asks for: the base model's."""
        return getattr(self.mixture.base, name)

    def __call__(self, *args: Any, **inputs: Any) -> XLoraOutput:
        """One step, as `GenerationMixin` calls it."""
        out: XLoraOutput = self.mixture(*args, **inputs)
        return out

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        cache: XLoraCache | None = None,
        **kwargs: Any,
    ) -> XLoraOutput:
        """`GenerationMixin` reads from its signature which model inputs exist."""
        return self(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            cache=cache,
            **kwargs,
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The inputs that the base model prepares; architectures differ in them.

        `inputs_embeds` is a named parameter because `GenerationMixin` looks for that name here.
        """
        base = cast("GenerationMixin", self.mixture.base)
        inputs: dict[str, Any] = base.prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        return inputs

    @torch.no_grad()
    def generate(self, inputs: Int[Tensor, "batch seq"] | None = None, **kwargs: Any) -> Any:
        """As `GenerationMixin.generate`, with a cache for both passes unless the caller turns it off.

        Raises:
            CacheUnsupported: the caller's cache holds one pass.
            ConfigInvalid: drafts by the model's own first layers were asked for; a mixture has none.
        """
        if "past_key_values" in kwargs:
            kwargs["cache"] = kwargs.pop("past_key_values")
        if not self.mixture.has_fixed_scalings:
            require_xlora_cache(kwargs.get("cache"))
        if kwargs.get("assistant_early_exit") is not None:
            raise ConfigInvalid(
                "assistant_early_exit",
                "left out (prompt_lookup_num_tokens and assistant_model work)",
                kwargs["assistant_early_exit"],
            )
        return super().generate(inputs, **kwargs)

    def _sample(
        self,
        input_ids: Any,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: "BaseStreamer | None" = None,
        **model_kwargs: Any,
    ) -> Any:
        """Greedy decoding or sampling, with guesses if possible: several for one sequence, else one each."""
        loop = (input_ids, logits_processor, stopping_criteria, generation_config)
        prefetches = self._prefetch_scalings and not synced_gpus and not self.mixture.has_fixed_scalings
        if prefetches and can_prefetch(self.mixture, generation_config, model_kwargs):
            if can_draft(input_ids, model_kwargs):
                return drafted_sample(self, *loop, streamer, model_kwargs, self._make_drafts)
            return prefetched_sample(self, *loop, streamer, model_kwargs)
        return super()._sample(*loop, synced_gpus=synced_gpus, streamer=streamer, **model_kwargs)

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> bool:
        """The cache `GenerationMixin` makes (dynamic, static, offloaded, …), once for each pass."""
        if self.mixture.has_fixed_scalings:
            return super()._prepare_cache_for_generation(
                generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
            )
        scaling = dict(model_kwargs)
        for kwargs in (scaling, model_kwargs):
            made = super()._prepare_cache_for_generation(
                generation_config, kwargs, generation_mode, batch_size, max_cache_length
            )
        if model_kwargs.get("cache") is not scaling.get("cache"):
            model_kwargs["cache"] = XLoraCache(scaling["cache"], model_kwargs["cache"])
        return made
