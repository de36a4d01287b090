"""Random base models of many architectures, small enough to build in every test.

Knows nothing of the packages under test.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCABULARY = 64
#: Attention reaches this far back where an architecture has sliding windows: less than a test's prompt.
WINDOW = 4

_SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA_LIKE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
_GROUPED = {**_LLAMA_LIKE, "num_key_value_heads": 2}
_HEADS_OF_8 = {**_GROUPED, "head_dim": 8}
#: A picture encoder, which text never reaches.
_EYES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_QWEN_EYES = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 16,
    "patch_size": 4,
}
#: Linear attention in the first of two layers.
_LINEAR = {
    **_HEADS_OF_8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_LATENT = {
    **_GROUPED,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT_TARGETS = (("q_proj", "o_proj"), ("kv_a_proj_with_mqa", "o_proj"), ("kv_a_proj_with_mqa",))
_MOE = {"num_experts_per_tok": 2, "head_dim": 8}
_GPT2_LIKE = {"n_layer": 2, "n_head": 2, "initializer_range": 0.3}


@dataclass(frozen=True, kw_only=True)
class SmallBase:
    """How to build a base model of one class, and what adapters of it may change."""

    model: str
    config: str
    fields: dict[str, Any]
    #: Target modules of three adapters, which differ.
    targets: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] = (
        ("q_proj", "v_proj"),
        ("q_proj", "o_proj", "down_proj"),
        ("k_proj", "up_proj"),
    )
    #: Whether PEFT's X-LoRA runs it: keys are `model.model.…`, no layer flattens batch and sequence.
    peft: bool = True
    lora: dict[str, Any] = field(default_factory=dict)

    def build(self, *, vocab_size: int = VOCABULARY, context: int | None = None) -> PreTrainedModel:
        """The same model at every call, float32, in eval mode; `context` is how many tokens it reads."""
        config = getattr(transformers, self.config)(
            **_with_tokens(self.fields, vocab_size=vocab_size, context=context)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = getattr(transformers, self.model)(config)
        model.eval()
        return model


def _with_tokens(fields: dict[str, Any], *, vocab_size: int, context: int | None) -> dict[str, Any]:
    """Fields of a configuration with vocabulary and special tokens, in its text part if it has one."""
    if "text_config" in fields:
        text = _with_tokens(fields["text_config"], vocab_size=vocab_size, context=context)
        return {**fields, "text_config": text}
    name = "n_positions" if "n_positions" in fields else "max_position_embeddings"
    longer = {name: context} if context and name in fields else {}
    return {**_SPECIAL, **fields, "vocab_size": vocab_size, **longer}


def _paths(*projections: str) -> tuple[str, ...]:
    """Attention's projections in both layers of a text part inside another model."""
    return tuple(
        f"language_model.layers.{n}.self_attn.{projection}" for n in (0, 1) for projection in projections
    )


SMALL_BASES: dict[str, SmallBase] = {
    "Llama": SmallBase(model="LlamaForCausalLM", config="LlamaConfig", fields=_GROUPED),
    "Mistral": SmallBase(
        model="MistralForCausalLM", config="MistralConfig", fields={**_GROUPED, "sliding_window": WINDOW}
    ),
    "Qwen2": SmallBase(
        model="Qwen2ForCausalLM",
        config="Qwen2Config",
        fields={**_GROUPED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "Qwen3": SmallBase(model="Qwen3ForCausalLM", config="Qwen3Config", fields={**_GROUPED, "head_dim": 8}),
    "Gemma": SmallBase(
        model="GemmaForCausalLM",
        config="GemmaConfig",
        fields={**_GROUPED, "head_dim": 8, "tie_word_embeddings": True},
    ),
    "Gemma 2": SmallBase(
        model="Gemma2ForCausalLM",
        config="Gemma2Config",
        fields={**_GROUPED, "head_dim": 8, "sliding_window": WINDOW, "tie_word_embeddings": True},
    ),
    "Gemma 3": SmallBase(
        model="Gemma3ForCausalLM",
        config="Gemma3TextConfig",
        fields={
            **_GROUPED,
            "head_dim": 8,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
        },
        # Its embedding is scaled, and so is what an adapter adds to it.
        targets=(("q_proj", "embed_tokens"), ("o_proj", "down_proj"), ("k_proj", "up_proj")),
    ),
    "Phi": SmallBase(
        model="PhiForCausalLM",
        config="PhiConfig",
        fields=_GROUPED,
        targets=(("q_proj",), ("dense",), ("fc1", "fc2")),
    ),
    "Phi-3": SmallBase(
        model="Phi3ForCausalLM",
        config="Phi3Config",
        fields=_GROUPED,
        targets=(("qkv_proj",), ("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj")),
    ),
    "StarCoder 2": SmallBase(
        model="Starcoder2ForCausalLM",
        config="Starcoder2Config",
        fields={**_GROUPED, "sliding_window": WINDOW},
        targets=(("q_proj",), ("c_fc", "o_proj"), ("c_proj", "k_proj")),
    ),
    "GPT-2": SmallBase(
        model="GPT2LMHeadModel",
        config="GPT2Config",
        fields={**_GPT2_LIKE, "n_positions": 64, "n_embd": 16},
        targets=(("c_attn",), ("c_attn", "c_fc"), ("c_proj",)),
        lora={"fan_in_fan_out": True},  # its layers are Conv1D
        peft=False,
    ),
    "GPT-NeoX": SmallBase(
        model="GPTNeoXForCausalLM",
        config="GPTNeoXConfig",
        fields=_LLAMA_LIKE,
        targets=(("query_key_value",), ("query_key_value", "dense"), ("dense_4h_to_h",)),
        peft=False,
    ),
    "OPT": SmallBase(
        model="OPTForCausalLM",
        config="OPTConfig",
        fields={
            "hidden_size": 16,
            "word_embed_proj_dim": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "init_std": 0.3,
        },
        targets=(("q_proj",), ("q_proj", "out_proj"), ("v_proj",)),
    ),
    "OPT with projected embeddings": SmallBase(
        model="OPTForCausalLM",
        config="OPTConfig",
        fields={
            "hidden_size": 16,
            "word_embed_proj_dim": 8,
            "do_layer_norm_before": False,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "init_std": 0.3,
        },
        targets=(("q_proj",), ("fc1", "out_proj"), ("fc2",)),  # its blocks may flatten batch and sequence
        peft=False,
    ),
    "Bloom": SmallBase(
        model="BloomForCausalLM",
        config="BloomConfig",
        fields={**_GPT2_LIKE, "hidden_size": 16},
        targets=(("query_key_value",), ("query_key_value", "dense"), ("dense_h_to_4h",)),
        peft=False,
    ),
    "Mixtral": SmallBase(
        model="MixtralForCausalLM",
        config="MixtralConfig",
        fields={**_GROUPED, **_MOE, "num_local_experts": 4},
        targets=(("q_proj", "v_proj"), ("q_proj", "o_proj"), ("k_proj",)),
    ),
    "Qwen3-MoE": SmallBase(
        model="Qwen3MoeForCausalLM",
        config="Qwen3MoeConfig",
        fields={**_GROUPED, **_MOE, "num_experts": 4, "moe_intermediate_size": 16},
        targets=(("q_proj", "v_proj"), ("q_proj", "o_proj"), ("k_proj",)),
    ),
    "SmolLM3": SmallBase(
        model="SmolLM3ForCausalLM", config="SmolLM3Config", fields={**_GROUPED, "no_rope_layers": [1, 0]}
    ),
    "GLM 4": SmallBase(
        model="Glm4ForCausalLM",
        config="Glm4Config",
        fields=_HEADS_OF_8,
        targets=(("q_proj", "v_proj"), ("o_proj", "down_proj"), ("gate_up_proj",)),
    ),
    "DeepSeek V2": SmallBase(
        model="DeepseekV2ForCausalLM",
        config="DeepseekV2Config",
        fields={**_LATENT, "topk_method": "group_limited_greedy"},
        targets=_LATENT_TARGETS,
    ),
    "DeepSeek V3": SmallBase(
        model="DeepseekV3ForCausalLM",
        config="DeepseekV3Config",
        fields={**_LATENT, "q_lora_rank": 8},
        targets=(("q_b_proj", "o_proj"), *_LATENT_TARGETS[1:]),
    ),
    "Falcon-H1": SmallBase(
        model="FalconH1ForCausalLM",
        config="FalconH1Config",
        fields={
            **_HEADS_OF_8,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_d_conv": 4,
            "mamba_chunk_size": 8,
        },
    ),
    "Llama 4": SmallBase(
        model="Llama4ForCausalLM",
        config="Llama4TextConfig",
        fields={
            **_HEADS_OF_8,
            "intermediate_size_mlp": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": WINDOW,
            "no_rope_layers": [1, 0],
        },
        targets=(("q_proj", "v_proj"), ("q_proj", "o_proj"), ("k_proj",)),
    ),
    "Qwen3.5": SmallBase(
        model="Qwen3_5ForCausalLM",
        config="Qwen3_5TextConfig",
        fields=_LINEAR,
        targets=(("q_proj", "in_proj_qkv"), ("out_proj", "down_proj"), ("k_proj", "up_proj")),
    ),
    "Gemma 4": SmallBase(
        model="Gemma4ForCausalLM",
        config="Gemma4TextConfig",
        fields={
            **_HEADS_OF_8,
            "global_head_dim": 8,
            "sliding_window": WINDOW,
            "tie_word_embeddings": True,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "Gemma 3 with pictures": SmallBase(
        model="Gemma3ForConditionalGeneration",
        config="Gemma3Config",
        fields={
            "text_config": {
                **_HEADS_OF_8,
                "sliding_window": WINDOW,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "vision_config": {**_EYES, "image_size": 16, "patch_size": 4},
            "mm_tokens_per_image": 4,
            "tie_word_embeddings": False,
            "initializer_range": 0.3,
        },
        targets=(
            ("q_proj", "v_proj", "up_proj"),
            ("q_proj", "o_proj", "down_proj"),
            ("k_proj", "gate_proj"),
        ),
    ),
    "Gemma 4 with pictures": SmallBase(
        model="Gemma4ForConditionalGeneration",
        config="Gemma4Config",
        fields={
            "text_config": {
                **_HEADS_OF_8,
                "global_head_dim": 8,
                "sliding_window": WINDOW,
                "hidden_size_per_layer_input": 0,
                "num_kv_shared_layers": 0,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "vision_config": {**_EYES, "head_dim": 8, "num_key_value_heads": 2, "patch_size": 4},
            "audio_config": None,
        },
        # Its picture encoder has layers of the same names, and no plain ones.
        targets=(_paths("q_proj", "v_proj"), _paths("q_proj", "o_proj"), _paths("k_proj")),
    ),
    "Qwen2.5-VL": SmallBase(
        model="Qwen2_5_VLForConditionalGeneration",
        config="Qwen2_5_VLConfig",
        fields={
            "text_config": {**_GROUPED, "hidden_size": 32, "rope_parameters": _MROPE},
            "vision_config": {**_QWEN_EYES, "out_hidden_size": 32, "fullatt_block_indexes": [0]},
        },
    ),
    "Qwen3-VL": SmallBase(
        model="Qwen3VLForConditionalGeneration",
        config="Qwen3VLConfig",
        fields={
            "text_config": {**_HEADS_OF_8, "rope_parameters": _MROPE},
            "vision_config": {
                **_QWEN_EYES,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
        },
    ),
    "Mistral 3": SmallBase(
        model="Mistral3ForConditionalGeneration",
        config="Mistral3Config",
        fields={
            "text_config": {"model_type": "mistral", **_HEADS_OF_8},
            "vision_config": {"model_type": "pixtral", **_EYES, "image_size": 16, "patch_size": 4},
        },
    ),
}
