"""What a decoding loop asks of the decoder it runs for, and the private names of `transformers` it uses.

`transformers` offers no public way to put another loop under `generate`. What is used all the same is listed
here once, so that one contract test can say which name a new release has changed and which module uses it.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from xlora_engine.mixture.mixture import Mixture


class DecodingHost(Protocol):
    """A decoder as its loops see it: a mixture, and two steps that `GenerationMixin` implements."""

    mixture: Mixture

    def _prefill(
        self, input_ids: Any, generation_config: GenerationConfig, model_kwargs: dict[str, Any]
    ) -> Any:
        """Run the prompt, which fills the cache in `model_kwargs`; the model's output."""

    def _optimize_model_for_decode(self) -> AbstractContextManager[None]:
        """Inside, the model runs as it does best on single tokens."""


@dataclass(frozen=True, kw_only=True)
class PrivateName:
    """One name of `transformers` that is not part of its documented interface."""

    owner: type
    name: str
    #: `override`: `transformers` calls ours, with exactly these parameters. `call`: we call theirs, with
    #: these as the first ones by position. `keywords`: we call theirs, with these by name. `attribute`: we
    #: read or set it.
    use: Literal["override", "call", "keywords", "attribute"]
    parameters: tuple[str, ...] = ()
    #: Modules of this package that use it.
    modules: tuple[str, ...]


_LOOP = ("input_ids", "logits_processor", "stopping_criteria", "generation_config", "synced_gpus")

#: Every private name of `transformers` that this package uses.
PRIVATE_NAMES = (
    PrivateName(
        owner=GenerationMixin,
        name="_sample",
        use="override",
        parameters=(*_LOOP, "streamer", "model_kwargs"),
        modules=("decoding.decoder",),
    ),
    PrivateName(
        owner=GenerationMixin,
        name="_prefill",
        use="call",
        parameters=("input_ids", "generation_config", "model_kwargs"),
        modules=("decoding.prefetched", "decoding.drafted", "decoding.frozen"),
    ),
    PrivateName(
        owner=GenerationMixin,
        name="_optimize_model_for_decode",
        use="call",
        modules=("decoding.prefetched", "decoding.drafted"),
    ),
    PrivateName(
        owner=GenerationMixin,
        name="_prepare_cache_for_generation",
        use="override",
        parameters=(
            "generation_config",
            "model_kwargs",
            "generation_mode",
            "batch_size",
            "max_cache_length",
        ),
        modules=("decoding.decoder",),
    ),
    PrivateName(
        owner=GenerationMixin,
        name="_beam_search",
        use="override",
        parameters=(*_LOOP, "model_kwargs"),
        modules=("decoding.frozen",),
    ),
    PrivateName(
        owner=GenerationMixin,
        name="_assisted_decoding",
        use="override",
        parameters=(
            *_LOOP,
            "streamer",
            "inputs_tensor",
            "assistant_model",
            "assistant_tokenizer",
            "tokenizer",
            "model_kwargs",
        ),
        modules=("decoding.frozen",),
    ),
    PrivateName(owner=PreTrainedModel, name="_is_stateful", use="attribute", modules=("decoding.decoder",)),
    PrivateName(
        owner=GenerationConfig, name="_pad_token_tensor", use="attribute", modules=("decoding.prefetched",)
    ),
    PrivateName(owner=Cache, name="offloading", use="attribute", modules=("decoding.joint_cache",)),
    PrivateName(owner=DynamicLayer, name="keys", use="attribute", modules=("decoding.joint_cache",)),
    PrivateName(owner=DynamicLayer, name="values", use="attribute", modules=("decoding.joint_cache",)),
    PrivateName(
        owner=DynamicSlidingWindowLayer,
        name="sliding_window",
        use="attribute",
        modules=("decoding.joint_cache",),
    ),
    PrivateName(
        owner=DynamicSlidingWindowLayer,
        name="cumulative_length",
        use="attribute",
        modules=("decoding.joint_cache",),
    ),
    PrivateName(
        owner=PreTrainedModel,
        name="_set_gradient_checkpointing",
        use="keywords",
        parameters=("gradient_checkpointing_func",),
        modules=("mixture.activation_checkpointing",),
    ),
    PrivateName(
        owner=PreTrainedConfig,
        name="_attn_implementation",
        use="attribute",
        modules=("devices.attention",),
    ),
)
