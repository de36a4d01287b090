"""An adapter as vLLM takes it: one rank and one scale, and nothing that it refuses or passes over.

Source: vLLM 0.33.0, `vllm/lora/peft_helper.py`, `lora_model.py`, `utils.py`, `vllm/config/lora.py`, and which
model classes are `SupportsLoRA` and have `embedding_modules`.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from xlora_engine.errors import NotRepresentable
from xlora_engine.sources.adapter_weights import Expert, LowRank

#: What `--max-lora-rank` may be.
RANK_LIMITS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

#: Base models that vLLM runs without adapters alone.
WITHOUT_ADAPTERS = frozenset({"BloomForCausalLM", "GPT2LMHeadModel"})

_BOTH = frozenset({"embed_tokens", "lm_head"})
#: Base models whose embeddings or output layer vLLM adapts.
EMBEDDINGS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                *("ApertusForCausalLM", "Cohere2ForCausalLM", "CohereForCausalLM", "FalconH1ForCausalLM"),
                *("GraniteForCausalLM", "LlamaForCausalLM", "MixtralForCausalLM", "NemotronForCausalLM"),
                *("Phi3ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
            ),
            _BOTH,
        ),
        # Those that it runs by the code of transformers.
        **dict.fromkeys(
            ("GPTNeoXForCausalLM", "PhiForCausalLM", "SmolLM3ForCausalLM", "Starcoder2ForCausalLM"),
            frozenset({"embed_tokens"}),
        ),
    }
)


def for_vllm(expert: Expert, architecture: str) -> Expert:
    """The adapter with one rank and one scale: the same update of each module.

    Ranks are padded with zeros. Older releases pass over `rank_pattern` and `alpha_pattern`, so scales that
    differ from the most frequent one go into B, which is float32 then unless that is exact.

    Raises:
        NotRepresentable: vLLM does not adapt the base model, or a module of it, or takes no such rank.
    """
    if architecture in WITHOUT_ADAPTERS:
        raise NotRepresentable("vllm", "base_model", f"vLLM runs {architecture} without adapters")
    for path, update in expert.updates.items():
        name = path.rpartition(".")[2]
        if (update.is_embedding or name == "lm_head") and name not in EMBEDDINGS.get(architecture, ()):
            raise NotRepresentable(
                "vllm", "target_modules", f"vLLM does not adapt {path!r} of {architecture}; merge it instead"
            )
    rank = max(update.rank for update in expert.updates.values())
    if rank > RANK_LIMITS[-1]:
        raise NotRepresentable("vllm", "r", f"vLLM takes ranks up to {RANK_LIMITS[-1]}, and {rank} is higher")
    scales = Counter(update.scale for update in expert.updates.values())
    if len(scales) == 1 and all(update.rank == rank for update in expert.updates.values()):
        same = {"r": rank, "lora_alpha": _alpha(expert, next(iter(scales)), rank)}
        return replace(expert, config={**expert.config, **same, "rank_pattern": {}, "alpha_pattern": {}})
    scale = scales.most_common(1)[0][0]
    config = {"r": rank, "lora_alpha": scale * rank, "use_rslora": False}
    return replace(
        expert,
        config={**expert.config, **config, "rank_pattern": {}, "alpha_pattern": {}},
        updates={path: _with(update, rank, scale) for path, update in expert.updates.items()},
    )


def rank_limit(expert: Expert) -> int:
    """The least `--max-lora-rank` with which vLLM takes the adapter."""
    rank = max(update.rank for update in expert.updates.values())
    return next(limit for limit in RANK_LIMITS if limit >= rank)


def _alpha(expert: Expert, scale: float, rank: int) -> float:
    """The alpha that gives the scale, by the rule that the configuration names."""
    alpha = scale * (math.sqrt(rank) if expert.config.get("use_rslora") else rank)
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _with(update: LowRank, rank: int, scale: float) -> LowRank:
    """The same update with another rank and scale."""
    ratio = update.scale / scale
    B = update.B if ratio == 1 or math.frexp(ratio)[0] == 0.5 else update.B.float()
    padding = rank - update.rank
    return replace(
        update,
        A=torch.cat([update.A, update.A.new_zeros(padding, update.A.shape[1])]),
        B=torch.cat([B * ratio, B.new_zeros(B.shape[0], padding)], 1),
        scale=scale,
    )
