"""Which base models a mixture is tested on, which are refused, and the width of their hidden states."""

import warnings
from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from xlora_engine.errors import BaseUnsupported, ConfigInvalid

#: Classes of `transformers` on which the tests compare logits with a slow loop over experts and, where
#: PEFT works, with PEFT; with and without a cache; and gradients with and without activation checkpointing.
PROVEN = frozenset(
    {
        "BloomForCausalLM",
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "FalconH1ForCausalLM",
        "GPT2LMHeadModel",
        "GPTNeoXForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "GemmaForCausalLM",
        "Glm4ForCausalLM",
        "Llama4ForCausalLM",
        "LlamaForCausalLM",
        "Mistral3ForConditionalGeneration",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "OPTForCausalLM",
        "Phi3ForCausalLM",
        "PhiForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "Qwen3VLForConditionalGeneration",
        "Qwen3_5ForCausalLM",
        "SmolLM3ForCausalLM",
        "Starcoder2ForCausalLM",
    }
)

#: Fields with the width of a decoder's last hidden state; OPT may project it before the output layer.
_WIDTH_FIELDS = ("word_embed_proj_dim", "hidden_size")


class UnprovenArchitecture(UserWarning):
    """A base model of a class that no test covers: results may be wrong without any error."""


def check_architecture(base: PreTrainedModel) -> None:
    """Refuse a base model that cannot run two passes, and warn of one that no test covers.

    Raises:
        BaseUnsupported: it has no decoder below a head, or an encoder that a scaling pass would not run.
    """
    name = type(base).__name__
    if base.config.is_encoder_decoder or decoder_of(base) is base:
        raise BaseUnsupported(
            f"{name} has no decoder of its own below a head; load it as a causal language model"
        )
    if name not in PROVEN:
        warnings.warn(
            f"{name} is not among the architectures that X-LoRA is proven on; compare its logits with "
            "and without a cache, and one-hot scalings with that adapter alone, before you rely on it",
            UnprovenArchitecture,
            stacklevel=2,
        )


def decoder_of(base: PreTrainedModel) -> PreTrainedModel:
    """The part of a causal language model that gives hidden states; the model itself if it has none."""
    found: PreTrainedModel = base.get_decoder()
    # Llama 4's text class has its decoder under another name than the one its weights are called by.
    inner = getattr(base, "model", None)
    return inner if found is base and isinstance(inner, PreTrainedModel) else found


def rereads_cache(base: PreTrainedModel, path: str) -> bool:
    """Whether the layer at a path is called on all tokens of its cache at every step, as in latent attention.

    It widens the latents of keys and values (`kv_b_proj` of DeepSeek), which are cached narrow.
    """
    parent, _, name = path.rpartition(".")
    return name == "kv_b_proj" and hasattr(base.get_submodule(parent), "kv_lora_rank")


def require_text_only(inputs: Mapping[str, object]) -> None:
    """Refuse pictures, sounds and other inputs that only the mixture pass would see.

    The scaling pass runs the text decoder on tokens or their embeddings. Inputs for the loss or the output,
    counts and flags, are not floating-point tensors.

    Raises:
        ConfigInvalid: there is such an input.
    """
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0:
            raise ConfigInvalid(name, "left out: the scaling pass takes only text", list(value.shape))


def hidden_width(base: PreTrainedModel) -> int:
    """Width of the hidden states that the scaling head reads."""
    config = base.config.get_text_config(decoder=True)
    return int(next(getattr(config, field) for field in _WIDTH_FIELDS if hasattr(config, field)))
