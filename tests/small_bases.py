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

    def build(self) -> PreTrainedModel:
        """The same model at every call, float32, in eval mode."""
        config = getattr(transformers, self.config)(**_SPECIAL, **self.fields)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = getattr(transformers, self.model)(config)
        model.eval()
        return model


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
}
