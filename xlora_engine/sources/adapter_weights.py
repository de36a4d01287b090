"""LoRA adapters on disk to expert tensors, and back; whether they fit a base model."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from formats.peft import (
    CONFIG_FILE,
    KEY_PREFIX,
    PICKLED_WEIGHTS_FILE,
    WEIGHTS_FILE,
    Factor,
    by_pattern,
    config_text,
    factor_of,
    is_plain_pattern,
)
from formats.refused_features import refused_feature
from formats.strict_json import read_object
from xlora_engine.errors import (
    BaseUnsupported,
    ExpertMismatch,
    ExpertUnreadable,
    ExpertUnsupported,
    SavedModelInvalid,
)
from xlora_engine.sources.weights_file import load_weights

#: Ending of a weight of the base model's own, which PEFT saves along with an update of it.
_BASE_COPY = ".base_layer.weight"

#: PEFT's, where a configuration leaves it out.
_DEFAULT_ALPHA = 8

#: What a written configuration keeps; other fields may name paths of the machine that trained the adapter.
_KEPT_FIELDS = (
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "bias",
    "peft_version",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """One expert's update of one module: `scale · B A`."""

    A: Float[Tensor, "rank d_in"]
    B: Float[Tensor, "d_out rank"]
    #: alpha / r, or alpha / √r with rsLoRA.
    scale: float
    is_embedding: bool

    @property
    def rank(self) -> int:
        """The width between A and B."""
        return self.A.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Expert:
    """An adapter as read from disk: its configuration and its updates by module path, in the stored dtype."""

    name: str
    config: Mapping[str, Any]
    updates: Mapping[str, LowRank]
    #: By module path, weights of the base model that PEFT saves with an update of embeddings or output layer.
    base_copies: Mapping[str, Tensor] = field(default_factory=dict)


def read_expert(
    folder: Path,
    name: str,
    *,
    prefix: str = "",
    select: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> Expert:
    """Read a PEFT LoRA folder; `select` may leave out tensors, or put other keys, before they are checked.

    `prefix` is what the names of its files begin with, where several adapters lie in one folder.

    Raises:
        ExpertUnreadable: a file is missing or damaged, or an A lacks its B.
        ExpertUnsupported: the adapter uses a feature that a mixture cannot honour, which is named.
    """
    config, tensors = _read_config(folder, prefix, name), _read_tensors(folder, prefix, name)
    return _make_expert(name, config, select(tensors))


def _make_expert(name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Expert:
    feature = refused_feature(config)
    if feature is not None:
        raise ExpertUnsupported(f"expert {name!r}: {feature.refusal(config)}")
    copies = {key: tensor for key, tensor in tensors.items() if key.endswith(_BASE_COPY)}
    factors = _pair_factors({key: t for key, t in tensors.items() if key not in copies}, name)
    return Expert(
        name=name,
        config=config,
        updates={path: _low_rank(path, pair, config, name) for path, pair in factors.items()},
        base_copies={k.removeprefix(KEY_PREFIX).removesuffix(_BASE_COPY): t for k, t in copies.items()},
    )


def write_expert(
    folder: Path,
    expert: Expert,
    updates: Mapping[str, LowRank],
    *,
    prefix: str = "",
    base_id: str | None = None,
) -> None:
    """Write the files `read_expert` reads, with the given updates (those read, or trained on since).

    `base_id` is the base model's name on the hub, if the files are to say it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for path, update in updates.items():
        for half, tensor in (("A", update.A), ("B", update.B)):
            factor = Factor(module=path, half=half, is_embedding=update.is_embedding)
            tensors[factor.key] = tensor.detach().cpu().contiguous()
    save_file(tensors, folder / f"{prefix}{WEIGHTS_FILE}", metadata={"format": "pt"})
    kept = {field: expert.config[field] for field in _KEPT_FIELDS if field in expert.config}
    config = {**kept, "base_model_name_or_path": base_id, "inference_mode": True}
    (folder / f"{prefix}{CONFIG_FILE}").write_text(config_text(config), encoding="utf-8")


def check_fits(expert: Expert, base: nn.Module) -> None:
    """Refuse an expert whose modules the base model lacks, or has in another shape.

    Raises:
        ExpertMismatch: naming the first such module, the shape expected and the shape found; or the expert
            holds a weight of the base model that is not this one's.
        BaseUnsupported: the module's weights are not in memory.
    """
    modules = dict(base.named_modules())
    for path, update in expert.updates.items():
        if path not in modules:
            raise ExpertMismatch(
                f"expert {expert.name!r} changes module {path!r}, which {type(base).__name__} does not have; "
                "it was trained on another base model"
            )
        if update.is_embedding is not isinstance(modules[path], nn.Embedding):
            raise ExpertMismatch(
                f"expert {expert.name!r} changes {path!r} as {_KINDS[update.is_embedding]}, where there is "
                f"a {type(modules[path]).__name__}; it was trained on another base model"
            )
        if any(parameter.is_meta for parameter in modules[path].parameters()):
            raise BaseUnsupported(
                f"the weights of {path!r} are on no device, as those are that accelerate offloads; load the "
                "base model with a device_map that keeps all of it on devices"
            )
        expected = _widths(modules[path])
        found = (update.A.shape[1], update.B.shape[0])
        if expected is None:
            raise ExpertMismatch(
                f"expert {expert.name!r} changes {path!r}, a {type(modules[path]).__name__}, which is "
                "neither a linear layer nor an embedding of tokens; train it again without this module"
            )
        if expected != found:
            raise ExpertMismatch(
                f"expert {expert.name!r} maps {found[0]} to {found[1]} at {path!r}, where the base maps "
                f"{expected[0]} to {expected[1]}; it was trained on another base model"
            )
    for path, copy in expert.base_copies.items():
        if path not in modules or not _is_copy(copy, getattr(modules[path], "weight", None)):
            raise ExpertMismatch(
                f"expert {expert.name!r} holds a weight for {path!r} itself, which is not the base model's; "
                "if it is the right base, save the adapter with save_embedding_layers=False"
            )


def _is_copy(copy: Tensor, weight: object) -> bool:
    """Whether a weight is as saved, whichever of the two was rounded to a shorter dtype since."""
    # A quantised weight is a tensor of a class of its own: what it was before is not known.
    if not isinstance(weight, Tensor) or type(weight.data) is not Tensor or copy.shape != weight.shape:
        return False
    shorter = min(copy.dtype, weight.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(copy.to(shorter), weight.detach().cpu().to(shorter))


_KINDS = {True: "an embedding", False: "a linear layer"}


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """`(d_in, d_out)` of a linear layer or embedding, by the attributes of its class; None of any other."""
    if isinstance(module, nn.Embedding) and len(inspect.signature(type(module).forward).parameters) != 2:
        return None  # OPT's positions are looked up by a mask, and more
    for d_in, d_out in (("in_features", "out_features"), ("nx", "nf"), ("num_embeddings", "embedding_dim")):
        if hasattr(module, d_in) and hasattr(module, d_out):
            return int(getattr(module, d_in)), int(getattr(module, d_out))
    return None


def _read_config(folder: Path, prefix: str, name: str) -> dict[str, Any]:
    def refusal(message: str) -> ExpertUnreadable:
        return ExpertUnreadable(f"expert {name!r}: {message}")

    return read_object(folder / f"{prefix}{CONFIG_FILE}", refusal=refusal)


def _read_tensors(folder: Path, prefix: str, name: str) -> dict[str, Tensor]:
    try:
        return load_weights(folder / f"{prefix}{WEIGHTS_FILE}", pickled=f"{prefix}{PICKLED_WEIGHTS_FILE}")
    except SavedModelInvalid as error:
        raise ExpertUnreadable(f"expert {name!r}: {error}") from error


def _pair_factors(tensors: Mapping[str, Tensor], name: str) -> dict[str, dict[str, tuple[Tensor, bool]]]:
    factors: dict[str, dict[str, tuple[Tensor, bool]]] = {}
    for key, tensor in tensors.items():
        factor = factor_of(key)
        if factor is None:
            raise ExpertUnsupported(f"expert {name!r} holds {key!r}, which is no LoRA factor of a module")
        factors.setdefault(factor.module, {})[factor.half] = (tensor, factor.is_embedding)
    if not factors:
        raise ExpertUnreadable(f"expert {name!r} holds no LoRA tensors")
    return factors


def _low_rank(
    path: str, pair: Mapping[str, tuple[Tensor, bool]], config: Mapping[str, Any], name: str
) -> LowRank:
    if set(pair) != {"A", "B"}:
        missing = ({"A", "B"} - set(pair)).pop()
        raise ExpertUnreadable(f"expert {name!r} lacks lora_{missing} of {path!r}")
    (A, is_embedding), (B, B_is_embedding) = pair["A"], pair["B"]
    is_pair = A.dim() == B.dim() == 2 and A.shape[0] == B.shape[1] > 0 and is_embedding is B_is_embedding
    if not is_pair:
        raise ExpertUnsupported(
            f"expert {name!r}: A {tuple(A.shape)} and B {tuple(B.shape)} of {path!r} are no linear update"
        )
    if not (A.isfinite().all() and B.isfinite().all()):
        raise ExpertUnreadable(f"expert {name!r} holds values at {path!r} that are no finite numbers")
    return LowRank(A=A, B=B, scale=_scale(path, A.shape[0], config, name), is_embedding=is_embedding)


def _scale(path: str, rank: int, config: Mapping[str, Any], name: str) -> float:
    """The expert's alpha / r at a module, or alpha / √r with rsLoRA."""
    if not config.get("rank_pattern") and config.get("r", rank) != rank:
        raise ExpertUnreadable(
            f"expert {name!r} has rank {rank} at {path!r}, where {CONFIG_FILE} says {config['r']!r}"
        )
    patterns = _plain_patterns(config.get("alpha_pattern"), name)
    alpha = by_pattern(patterns, path, default=config.get("lora_alpha", _DEFAULT_ALPHA))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ExpertUnreadable(
            f"expert {name!r} has the alpha {alpha!r} at {path!r}, which is no finite number"
        )
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _plain_patterns(patterns: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(patterns, Mapping | None):
        raise ExpertUnreadable(
            f"expert {name!r}: {CONFIG_FILE} must map module names to alphas, not {patterns!r}"
        )
    for pattern in patterns or {}:
        if not is_plain_pattern(pattern):
            raise ExpertUnsupported(
                f"expert {name!r}: the pattern {pattern!r} is a regular expression; write module names"
            )
    return patterns or {}


def stacked(
    updates: Mapping[int, LowRank], *, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "ranks d_in"], Float[Tensor, "d_out ranks"]]:
    """All experts' A under each other and all their B side by side; scales stay out of both."""
    down = torch.cat([update.A for update in updates.values()], 0).to(device=device, dtype=dtype)
    up = torch.cat([update.B for update in updates.values()], 1).to(device=device, dtype=dtype)
    return down, up
