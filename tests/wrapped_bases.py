"""Small random base models that read pictures too, and what else their language model's modules are called.

Knows nothing of the packages under test.
"""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCABULARY = 64
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_WITH_HEADS = {**_TEXT, "head_dim": 8}
_EYES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
_SQUARES = {"image_size": 16, "patch_size": 4}
_QWEN_EYES = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 32,
    "patch_size": 4,
}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_SECTIONS = {"rope_type": "default", "mrope_section": [1, 1, 2]}


@dataclass(frozen=True, kw_only=True)
class WrappedBase:
    """How to build the class that reads pictures too, and the class of its language model alone."""

    model: str
    config: str
    fields: dict[str, Any]
    text_model: str
    text_config: str
    text_fields: dict[str, Any]

    def build(self) -> PreTrainedModel:
        """The whole, the same at every call, in float32."""
        return _built(self.model, self.config, {**self.fields, "text_config": self.text_fields})

    def build_text(self) -> PreTrainedModel:
        """The language model alone."""
        return _built(self.text_model, self.text_config, {**self.text_fields, "tie_word_embeddings": False})


def _built(model: str, config: str, fields: dict[str, Any]) -> PreTrainedModel:
    described = getattr(transformers, config)(**fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: PreTrainedModel = getattr(transformers, model)(described)
    built.eval()
    return built


WRAPPED_BASES: dict[str, WrappedBase] = {
    "Gemma 3": WrappedBase(
        model="Gemma3ForConditionalGeneration",
        config="Gemma3Config",
        fields={"vision_config": {**_EYES, **_SQUARES}, "mm_tokens_per_image": 4},
        text_model="Gemma3ForCausalLM",
        text_config="Gemma3TextConfig",
        text_fields={**_WITH_HEADS, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "Qwen2.5-VL": WrappedBase(
        model="Qwen2_5_VLForConditionalGeneration",
        config="Qwen2_5_VLConfig",
        fields={"vision_config": {**_QWEN_EYES, "fullatt_block_indexes": [0]}},
        text_model="Qwen2ForCausalLM",
        text_config="Qwen2Config",
        text_fields={**_TEXT, "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]}},
    ),
    "Qwen3-VL": WrappedBase(
        model="Qwen3VLForConditionalGeneration",
        config="Qwen3VLConfig",
        fields={
            "vision_config": {
                **_QWEN_EYES,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            }
        },
        text_model="Qwen3ForCausalLM",
        text_config="Qwen3Config",
        text_fields={**_WITH_HEADS, "rope_scaling": _SECTIONS},
    ),
    "Qwen3.5": WrappedBase(
        model="Qwen3_5ForConditionalGeneration",
        config="Qwen3_5Config",
        fields={"vision_config": {**_QWEN_EYES, "num_position_embeddings": 16}},
        text_model="Qwen3_5ForCausalLM",
        text_config="Qwen3_5TextConfig",
        text_fields={**_WITH_HEADS, **_LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "LLaVA": WrappedBase(
        model="LlavaForConditionalGeneration",
        config="LlavaConfig",
        fields={
            "vision_config": {**_EYES, **_SQUARES, "model_type": "clip_vision_model", "projection_dim": 32}
        },
        text_model="LlamaForCausalLM",
        text_config="LlamaConfig",
        text_fields={**_WITH_HEADS, "model_type": "llama"},
    ),
    "PaliGemma": WrappedBase(
        model="PaliGemmaForConditionalGeneration",
        config="PaliGemmaConfig",
        fields={
            "vision_config": {**_EYES, **_SQUARES, "model_type": "siglip_vision_model", "projection_dim": 32},
            "projection_dim": 32,
        },
        text_model="GemmaForCausalLM",
        text_config="GemmaConfig",
        text_fields={**_WITH_HEADS, "model_type": "gemma"},
    ),
}
